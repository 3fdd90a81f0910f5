# What SAM does. It lives in an environment of its own, since it pins other versions of the libraries that the
# engine uses, and that environment's bin comes first on PATH: "sam build" looks there for python3.13.
.PHONY: validate build deploy lock-sam

SAM_VERSION := 1.170.0
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
	@for name in $$(cd $(BUILT) && ls -d */ | tr -d /); do \
		case $$name in *Layer) at=/opt;; *) at=/var/task;; esac; \
		$(SAM_PYTHON) -m compileall -q --invalidation-mode unchecked-hash \
			-s $(BUILT)/$$name -p $$at $(BUILT)/$$name; \
	done

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

# pip, because "sam build" calls it.
lock-sam: $(OWN_UV) ## pin SAM and what it needs
	@printf "aws-sam-cli==$(SAM_VERSION)\npip\n" | $(UV) pip compile --quiet --universal --python-version $(PYTHON_VERSION) \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock-sam" \
		-o tools/sam-requirements.txt -

.local/sam/ready: tools/sam-requirements.txt | $(OWN_UV)
	@echo "Setting up SAM ..."
	@$(UV) venv --quiet --allow-existing --python $(PYTHON_VERSION) .local/sam
	@$(UV) pip sync --quiet --require-hashes --python .local/sam/bin/python tools/sam-requirements.txt
	@touch $@
