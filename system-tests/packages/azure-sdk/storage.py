"""Uses a storage account with the official SDKs, as an application in the cloud would, and says `done` at the end.

    storage.py blob|queue|table PORT FILE

The account is Azurite's well-known one, its endpoint a port of this machine.
"""
import hashlib
import sys

from azure.core.exceptions import ResourceExistsError
from azure.data.tables import TableServiceClient
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def connection_string(kind: str, port: str) -> str:
    return (f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"{kind.capitalize()}Endpoint=http://127.0.0.1:{port}/{ACCOUNT};")


def sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blob(connection: str, path: str) -> None:
    """Uploads the file in blocks, several at once, downloads it again and compares hashes."""
    container = BlobServiceClient.from_connection_string(connection).get_container_client("measurements")
    container.create_container()
    client = container.get_blob_client("raw")
    with open(path, "rb") as file:
        client.upload_blob(file, max_concurrency=4)
    back = path + ".back"
    with open(back, "wb") as file:
        client.download_blob(max_concurrency=4).readinto(file)
    if sha256(back) != sha256(path):
        sys.exit("the blob came back changed")


def queue(connection: str, _: str) -> None:
    client = QueueServiceClient.from_connection_string(connection).get_queue_client("commands")
    client.create_queue()
    said = [f"command {number}" for number in range(50)]
    for text in said:
        client.send_message(text)
    heard = []
    while len(heard) < len(said):
        for message in client.receive_messages(messages_per_page=16, max_messages=16):
            heard.append(message.content)
            client.delete_message(message)
    if heard != said:
        sys.exit(f"sent {said}, received {heard}")


def table(connection: str, _: str) -> None:
    client = TableServiceClient.from_connection_string(connection).create_table("readings")
    for number in range(50):
        client.create_entity({"PartitionKey": "pump", "RowKey": f"{number:03}", "Pressure": number * 1.5})
    try:
        client.create_entity({"PartitionKey": "pump", "RowKey": "000"})
    except ResourceExistsError:
        pass
    else:
        sys.exit("one row was made twice")
    high = [row["RowKey"] for row in client.query_entities("Pressure ge 60.0")]
    if high != [f"{number:03}" for number in range(40, 50)]:
        sys.exit(f"the query found {high}")


if __name__ == "__main__":
    kind, port, file = sys.argv[1:]
    {"blob": blob, "queue": queue, "table": table}[kind](connection_string(kind, port), file)
    print("done")
