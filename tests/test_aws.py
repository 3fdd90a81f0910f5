"""What the functions ask of AWS besides DynamoDB, against moto (one thread, nothing kept)."""

import json
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from loyalty import store


@pytest.fixture
def aws() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.mark.usefixtures("aws")
def test_the_secrets_of_a_deployment_are_read_with_all_their_versions() -> None:
    client = boto3.client("secretsmanager", region_name="eu-west-1")
    text = json.dumps({"1": "printed on old posters", "2": "signs today"})
    arn = client.create_secret(Name="codes", SecretString=text)["ARN"]
    secrets = store.load_secrets(arn)
    assert secrets.current == 2
    assert secrets.versions == {1: b"printed on old posters", 2: b"signs today"}


@pytest.mark.usefixtures("aws")
def test_more_messages_than_a_batch_holds_are_all_sent() -> None:
    client = boto3.client("sqs", region_name="eu-west-1")
    queue = client.create_queue(QueueName="sweep")["QueueUrl"]
    store.send_messages(queue, [{"segment": i} for i in range(23)])
    found = set()
    while found != set(range(23)):
        for message in client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]:
            found.add(json.loads(message["Body"])["segment"])
            client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
