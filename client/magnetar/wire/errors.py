"""Errors as both sides of the conversation see them."""

from __future__ import annotations

from magnetar import errors
from magnetar.wire import broker_pb2 as pb

_CLASSES: dict[int, type[errors.MagnetarError]] = {
    pb.INVALID_TOPIC_NAME: errors.InvalidTopicName,
    pb.MESSAGE_TOO_LARGE: errors.MessageTooLarge,
    pb.INVALID_FRAME: errors.InvalidFrame,
    pb.NOT_SUPPORTED: errors.NotSupported,
    pb.NOT_OWNER: errors.NotOwner,
    pb.PRODUCER_FENCED: errors.ProducerFenced,
    pb.CONSUMER_BUSY: errors.ConsumerBusy,
    pb.TOPIC_NOT_FOUND: errors.TopicNotFound,
    pb.SUBSCRIPTION_NOT_FOUND: errors.SubscriptionNotFound,
    pb.NOT_ENOUGH_BOOKIES: errors.NotEnoughBookies,
    pb.UNAVAILABLE: errors.ConnectionFailed,
    pb.UNAUTHORIZED: errors.Unauthorized,
    pb.INVALID_ARGUMENT: errors.InvalidArgument,
    pb.TOPIC_TERMINATED: errors.TopicTerminated,
    pb.PRODUCER_BUSY: errors.ProducerBusy,
    pb.BACKLOG_QUOTA_EXCEEDED: errors.BacklogQuotaExceeded,
    pb.MESSAGE_NOT_FOUND: errors.MessageNotFound,
    pb.RESOURCE_EXISTS: errors.ResourceExists,
    pb.RESOURCE_NOT_FOUND: errors.ResourceNotFound,
    pb.RESOURCE_IN_USE: errors.ResourceInUse,
    pb.CHECKSUM_MISMATCH: errors.ConnectionFailed,  # damaged on the way: send it again
}
_CODES: dict[type[errors.MagnetarError], pb.ErrorCode.ValueType] = {
    errors.InvalidTopicName: pb.INVALID_TOPIC_NAME,
    errors.MessageTooLarge: pb.MESSAGE_TOO_LARGE,
    errors.InvalidFrame: pb.INVALID_FRAME,
    errors.InvalidArgument: pb.INVALID_ARGUMENT,
    errors.NotSupported: pb.NOT_SUPPORTED,
    errors.NotOwner: pb.NOT_OWNER,
    errors.ProducerFenced: pb.PRODUCER_FENCED,
    errors.SequenceOverlap: pb.SEQUENCE_OVERLAP,
    errors.ConsumerBusy: pb.CONSUMER_BUSY,
    errors.TopicNotFound: pb.TOPIC_NOT_FOUND,
    errors.SubscriptionNotFound: pb.SUBSCRIPTION_NOT_FOUND,
    errors.NotEnoughBookies: pb.NOT_ENOUGH_BOOKIES,
    errors.Unauthorized: pb.UNAUTHORIZED,
    errors.TopicTerminated: pb.TOPIC_TERMINATED,
    errors.ProducerBusy: pb.PRODUCER_BUSY,
    errors.BacklogQuotaExceeded: pb.BACKLOG_QUOTA_EXCEEDED,
    errors.MessageNotFound: pb.MESSAGE_NOT_FOUND,
    errors.ResourceExists: pb.RESOURCE_EXISTS,
    errors.ResourceNotFound: pb.RESOURCE_NOT_FOUND,
    errors.ResourceInUse: pb.RESOURCE_IN_USE,
    errors.ConnectionFailed: pb.UNAVAILABLE,
    errors.OperationTimeout: pb.UNAVAILABLE,
    errors.AlreadyClosed: pb.UNAVAILABLE,  # on the broker's side: the session ended, open another
    errors.LedgerError: pb.UNAVAILABLE,
    errors.MetadataError: pb.UNAVAILABLE,
}

RETRYABLE = (
    errors.ConnectionFailed, errors.NotOwner, errors.OperationTimeout, errors.LedgerError,
)
"""Another attempt, possibly at another broker, may succeed."""


def to_exception(error: pb.Error) -> errors.MagnetarError:
    """What the SDK raises for an error told by a broker."""
    if error.code == pb.SEQUENCE_OVERLAP:
        return errors.SequenceOverlap(error.last_sequence_id)
    kind = _CLASSES.get(error.code)
    if kind is None:
        return errors.ConnectionFailed(f"the broker failed: {error.message}")
    return kind(error.message)


def to_error(exception: BaseException) -> pb.Error:
    """What a broker tells its client about an exception; the nearest known class counts."""
    for kind in type(exception).__mro__:
        code = _CODES.get(kind)
        if code is not None:
            error = pb.Error(code=code, message=str(exception))
            if isinstance(exception, errors.SequenceOverlap):
                error.last_sequence_id = exception.last_sequence_id
            return error
    return pb.Error(code=pb.INTERNAL, message=f"{type(exception).__name__}: {exception}")
