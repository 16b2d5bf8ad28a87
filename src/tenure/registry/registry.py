"""The control database as a whole: one object that gives each noun its module."""

from __future__ import annotations

from tenure.model.secret import Secret
from tenure.registry import migrations
from tenure.registry.admissions import Admissions
from tenure.registry.approvals import Approvals
from tenure.registry.audit import Audit
from tenure.registry.backups import Backups
from tenure.registry.certificates import Certificates
from tenure.registry.database import Database, DatabaseSettings
from tenure.registry.erasures import Erasures
from tenure.registry.events import Events
from tenure.registry.links import Links
from tenure.registry.locks import AdvisoryMutex
from tenure.registry.measurements import Measurements
from tenure.registry.operations import Operations
from tenure.registry.placements import Placements
from tenure.registry.records import Records
from tenure.registry.scans import Scans
from tenure.registry.steps import Steps
from tenure.registry.tenants import Tenants
from tenure.registry.workers import Workers


class Registry:
    """Everything Tenure knows and does, kept in the control database. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.tenants = Tenants(database)
        self.placements = Placements(database)
        self.operations = Operations(database)
        self.approvals = Approvals(database)
        self.records = Records(database)
        self.steps = Steps(database)
        self.admissions = Admissions(database)
        self.events = Events(database)
        self.audit = Audit(database)
        self.links = Links(database)
        self.measurements = Measurements(database)
        self.workers = Workers(database)
        self.scans = Scans(database)
        self.backups = Backups(database)
        self.erasures = Erasures(database)
        self.certificates = Certificates(database)
        self.mutex = AdvisoryMutex(database)

    @classmethod
    def connect(cls, conninfo: Secret, *, settings: DatabaseSettings | None = None) -> Registry:
        """Make a registry for that DSN; connections are opened when they are needed."""
        return cls(Database(conninfo, settings=settings))

    def migrate(self) -> tuple[str, ...]:
        """Bring the schema up to date; return what was applied."""
        return migrations.migrate(self.database)

    def check(self) -> None:
        """Return if the database can be reached and has the schema this Tenure knows."""
        migrations.check_version(self.database)

    def close(self) -> None:
        """Give the connections back. Idempotent."""
        self.database.close()
