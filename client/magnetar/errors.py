"""The one tree of errors: each says what happened and what to do.

    MagnetarError
    ├── InvalidArgument            the call can never succeed as written
    │   ├── InvalidTopicName
    │   ├── MessageTooLarge
    │   └── InvalidFrame           bytes that do not follow the protocol or the stored format
    ├── NotSupported               understood, and not available in this version
    ├── RequestFailed              the one who was asked answered that it failed
    ├── OperationTimeout           no answer in time: the outcome is unknown
    ├── ConnectionFailed           no server reached, or the link was lost
    ├── AlreadyClosed              the object was closed by its user
    ├── ProducerQueueFull          back-pressure: await `ready()` or use `send_many`
    ├── ProducerFenced             another producer took over the name, or the topic
    ├── ProducerBusy               the topic has an exclusive producer, or others
    ├── BacklogQuotaExceeded       consumers are too far behind for the topic to take more
    ├── TopicTerminated            the topic takes no more messages, for ever
    │   └── EndOfTopic             and all of them were received
    ├── SequenceOverlap            part of the batch is already stored
    ├── ConsumerBusy               an exclusive subscription has its consumer
    ├── TopicNotFound / SubscriptionNotFound / MessageNotFound
    ├── ResourceExists / ResourceNotFound / ResourceInUse      as administrators see it
    ├── NotOwner                   another broker owns the topic
    ├── Unauthorized               the peer did not prove who it is
    ├── MetadataError
    │   ├── NotFound / AlreadyExists / BadVersion / NotEmpty
    │   ├── ConnectionLoss         the outcome of the operation is unknown
    │   └── SessionExpired
    └── LedgerError
        ├── LedgerFenced           another owner recovers this ledger: pending adds are unknown
        ├── LedgerClosed
        ├── LedgerNotFound
        ├── EntryNotFound          certain: no such entry
        ├── EntryUnknown           no certain answer: retry later, never treat as absent
        ├── NotEnoughBookies       fewer writable bookies than the ack quorum
        ├── RecoveryAborted        too few answers to know where the ledger ends
        └── StorageError
            ├── CorruptRecord
            └── DiskFailure        fatal: the process must end
"""

from __future__ import annotations


class MagnetarError(Exception):
    """Root of all errors raised on purpose."""


class InvalidArgument(MagnetarError):
    """The call can never succeed as written; change the argument named in the text."""


class InvalidTopicName(InvalidArgument):
    """The topic is not `{persistent|non-persistent}://tenant/namespace/topic` or a short form."""


class MessageTooLarge(InvalidArgument):
    """The message is above the limit; send less, or raise `max_message_size_bytes`."""


class InvalidFrame(InvalidArgument):
    """Bytes that do not follow the protocol or the stored format."""


class NotSupported(MagnetarError):
    """Understood, and not available in this version."""


class RequestFailed(MagnetarError):
    """Whoever handles such requests raised the error of the text."""


class OperationTimeout(MagnetarError):
    """No answer in time. The operation may or may not have happened."""


class ConnectionFailed(MagnetarError):
    """No server was reached, or the link was lost; check the service URL."""


class AlreadyClosed(MagnetarError):
    """The object was closed; make a new one."""


class ProducerQueueFull(MagnetarError):
    """The producer's limit in bytes is reached; `await producer.ready()` and send again."""


class ProducerFenced(MagnetarError):
    """A newer producer took over this name, or the topic; stop, or choose another name."""


class ProducerBusy(MagnetarError):
    """The topic has an exclusive producer, or others beside one that wants to be; wait for it
    (`WaitForExclusive`) or fence it off (`ExclusiveWithFencing`)."""


class BacklogQuotaExceeded(MagnetarError):
    """The topic's consumers are too far behind: consume, raise `backlog_quota_bytes`, or delete
    the subscription that holds the backlog."""


class TopicTerminated(MagnetarError):
    """The topic was terminated: it takes no more messages, and ends after its last one."""


class EndOfTopic(TopicTerminated):
    """Every message of a terminated topic was received; there will be no more."""


class SequenceOverlap(MagnetarError):
    """A batch is stored in part: everything up to `last_sequence_id` is already there."""

    def __init__(self, last_sequence_id: int) -> None:
        super().__init__(f"messages up to sequence id {last_sequence_id} are already stored")
        self.last_sequence_id = last_sequence_id


class ConsumerBusy(MagnetarError):
    """An exclusive subscription already has its consumer; close it or use another type."""


class TopicNotFound(MagnetarError):
    """The topic does not exist and may not be created by use."""


class SubscriptionNotFound(MagnetarError):
    """The subscription does not exist."""


class MessageNotFound(MagnetarError):
    """The topic has no such message: never had, or deleted it."""


class ResourceExists(MagnetarError):
    """There is one of that name already."""


class ResourceNotFound(MagnetarError):
    """There is none of that name."""


class ResourceInUse(MagnetarError):
    """It is not empty, or somebody uses it; remove what uses it first, or force it."""


class NotOwner(MagnetarError):
    """Another broker owns the topic; look it up again."""


class Unauthorized(MagnetarError):
    """The peer did not prove that it may do this."""


class MetadataError(MagnetarError):
    """A metadata operation failed."""


class NotFound(MetadataError):
    """There is provably no such node."""


class AlreadyExists(MetadataError):
    """The node exists already."""


class BadVersion(MetadataError):
    """The node changed since it was read; read it again and decide anew."""


class NotEmpty(MetadataError):
    """The node has children."""


class ConnectionLoss(MetadataError):
    """The link broke in mid-operation: it may or may not have been applied; read to find out."""


class SessionExpired(MetadataError):
    """The session ended: its ephemeral nodes are gone and its owner must let go of everything."""


class LedgerError(MagnetarError):
    """A ledger operation failed."""


class LedgerFenced(LedgerError):
    """Another owner recovers this ledger; the outcome of pending adds is unknown."""


class LedgerClosed(LedgerError):
    """The ledger is closed and takes no more entries."""


class LedgerNotFound(LedgerError):
    """The ledger's metadata is provably absent."""


class EntryNotFound(LedgerError):
    """There is certainly no such entry."""


class EntryUnknown(LedgerError):
    """No replica gave a certain answer; retry later, and never treat it as absent."""


class NotEnoughBookies(LedgerError):
    """Fewer writable bookies than the ack quorum; start bookies or free their disks."""


class RecoveryAborted(LedgerError):
    """Too few bookies answered to know where the ledger ends; retry when more are up."""


class StorageError(LedgerError):
    """The storage node could not serve."""


class CorruptRecord(StorageError):
    """A stored record failed its checksum."""


class DiskFailure(StorageError):
    """A write or sync failed; what reached the disk is unknown, so the process must end."""
