# What SAM does. It lives in an environment of its own, since it pins other versions of the libraries that the
# engine uses, and that environment's bin comes first on PATH: "sam build" looks there for python3.13.

SAM_VERSION := 1.170.0
CLOUD_VERSION := 1.5.33
CLOUD := .local/cloud
.PHONY: validate build deploy cloud-test bench-startup lock-sam $(CLOUD)/build
SAM := SAM_CLI_TELEMETRY=0 PATH="$(CURDIR)/.local/sam/bin:$$PATH" sam
SAM_PYTHON := .local/sam/bin/python
BUILT := .aws-sam/build

STAGE ?= dev
# samconfig.toml keeps the stage dev under the name that SAM takes by itself.
SAM_ENV = $(if $(filter dev,$(STAGE)),default,$(STAGE))
STACK = loyalty-$(STAGE)

validate: .local/sam/ready ## check template.yaml against CloudFormation's rules
	@$(SAM) validate --lint

# The runtime would compile every module at every cold start, since its disk is read-only. "unchecked-hash" makes
# bytecode that is taken without a look at the source, whose time stamps do not survive the zip. -s and -p put the
# runtime's own paths into tracebacks.
build: .local/sam/ready ## build functions and layer for Lambda (arm64), with bytecode
	@$(SAM) build
	@$(call bytecode,$(BUILT))

bytecode = for name in $$(cd $1 && ls -d */ | tr -d /); do \
		case $$name in *Layer) at=/opt;; *) at=/var/task;; esac; \
		$(SAM_PYTHON) -m compileall -q --invalidation-mode unchecked-hash -s $1/$$name -p $$at $1/$$name; \
	done

# The emulator runs functions on this machine, so they and their layer are built for it: the one thing in which its
# template differs. Its environment has the translator of SAM's, at the version that SAM uses.
HERE := $(subst aarch64,arm64,$(shell uname -m))
cloud-test: $(CLOUD)/build ## deploy the template to an emulator of AWS and use it there
	@$(RUN) -m pytest -m cloud tests/test_cloud.py $(ARGS)

bench-startup: $(CLOUD)/build ## measure how functions start, and write that table
	@$(RUN) -m tools.startup --write

$(CLOUD)/build: .venv/ready .local/sam/ready $(CLOUD)/ready
	@sed 's/\barm64\b/$(HERE)/' template.yaml >$(CLOUD)/template.yaml
	@$(SAM) build --template-file $(CLOUD)/template.yaml --config-file $(CURDIR)/samconfig.toml --base-dir . \
		--build-dir $(CLOUD)/build --cache-dir $(CLOUD)/cache >$(CLOUD)/build.log 2>&1 || { cat $(CLOUD)/build.log; exit 1; }
	@$(call bytecode,$(CLOUD)/build)

# The first deployment is followed by a second one, which tells the stack the address that the first one got
# (see PublicUrl in template.yaml). Once the address is set, here or by hand, it stays.
deploy: build ## deploy (STAGE=dev; ARGS="--parameter-overrides …" and others go to sam deploy)
	@$(SAM) deploy --config-env $(SAM_ENV) $(ARGS)
	@url="$$($(SAM) list stack-outputs --config-env $(SAM_ENV) --stack-name $(STACK) --output json \
		| $(SAM_PYTHON) -c "$$UNSET_URL")"; \
	if [ -n "$$url" ]; then \
		echo "Setting PublicUrl to $$url ..."; \
		$(SAM) deploy --config-env $(SAM_ENV) --no-confirm-changeset \
			--parameter-overrides Stage=$(STAGE) PublicUrl=$$url; \
	fi

# Prints the address of the API while the stack has no PublicUrl.
define UNSET_URL
import json, sys
outputs = {output["OutputKey"]: output["OutputValue"] for output in json.load(sys.stdin)}
print("" if "PublicUrl" in outputs else outputs["ApiUrl"])
endef
export UNSET_URL

# pip, because "sam build" calls it. The emulator comes with an environment of its own: it pins botocore.
lock-sam: $(OWN_UV) ## pin SAM and the emulator, and what they need
	@printf "aws-sam-cli==$(SAM_VERSION)\npip\n" | $(LOCK_SAM) -o tools/sam-requirements.txt -
	@{ grep -o "^aws-sam-translator==[0-9.]*" tools/sam-requirements.txt; \
		printf "ministack==$(CLOUD_VERSION)\ncryptography\n"; } | $(LOCK_SAM) -o tools/cloud-requirements.txt -

LOCK_SAM = $(UV) pip compile --quiet --universal --python-version $(PYTHON_VERSION) --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock-sam"

.local/sam/ready $(CLOUD)/ready: .local/%/ready: tools/%-requirements.txt | $(OWN_UV)
	@echo "Setting up $* ..."
	@$(UV) venv --quiet --allow-existing --python $(PYTHON_VERSION) .local/$*
	@$(UV) pip sync --quiet --require-hashes --python .local/$*/bin/python $<
	@touch $@
