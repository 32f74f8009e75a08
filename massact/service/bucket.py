"""Make the bucket that artifacts are to lie in: `python -m massact.service.bucket s3://BUCKET/PREFIX`."""

import os
import sys
from urllib.parse import urlsplit


def main() -> None:
    """Make it, or see that it is there."""
    parts = urlsplit(sys.argv[1])
    if parts.scheme != "s3" or not parts.netloc:
        sys.exit(f"error: {sys.argv[1]} is no s3://BUCKET/PREFIX")
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        if parts.netloc not in names:
            client.create_bucket(Bucket=parts.netloc)
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"error: the bucket {parts.netloc} cannot be made: {error}")


if __name__ == "__main__":
    main()
