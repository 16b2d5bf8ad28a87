"""CloudWatch: log groups, whose unit of erasure is a stream or a group, and metrics, which nobody can erase. With the
stores of objects the only modules that import `boto3`."""

from tenure.stores.cloudwatch.account import Account
from tenure.stores.cloudwatch.copy import LogsCopy
from tenure.stores.cloudwatch.export import FolderSink, Sink
from tenure.stores.cloudwatch.metrics import MetricsStore
from tenure.stores.cloudwatch.shared import Retained
from tenure.stores.cloudwatch.store import LogsStore

__all__ = ["Account", "FolderSink", "LogsCopy", "LogsStore", "MetricsStore", "Retained", "Sink"]
