//! Exits on the wire and on disk.
//!
//! The monitor writes each exit into the pod's directory before it tells it, so that neither a dead daemon nor a dead
//! monitor loses it; the daemon reads those files when the monitor can no longer be asked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{ContainerId, Exit, ExitRecord, Signal};
use serde::{Deserialize, Serialize};

use crate::wire;

/// Kind of an exit record in the header of its file.
pub const EXIT_RECORD_KIND: &str = "exit";
/// Version of the form of an exit record.
pub const EXIT_RECORD_VERSION: u32 = 1;

/// What the monitor leaves on disk of a container that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedExit {
    /// Whose exit it is.
    pub container: ContainerId,
    /// When `exec` succeeded; `None` when it never did.
    pub started: Option<SystemTime>,
    /// How and when it ended.
    pub record: ExitRecord,
}

/// Name of a container's exit record in the pod's directory of records.
pub fn exit_record_name(container: &ContainerId) -> String {
    format!("exit-{container}")
}

/// An exit as a message.
pub fn exit_to_wire(container: &ContainerId, record: &ExitRecord) -> wire::Exited {
    wire::Exited {
        container_id: container.to_string(),
        ending: Some(ending_to_wire(&record.how)),
        at_ns: to_ns(record.at),
        oom_killed: record.oom_killed,
    }
}

/// How a process ended, as a message.
pub fn ending_to_wire(how: &Exit) -> wire::Ending {
    use wire::ending::How;
    let how = match how {
        Exit::Code(code) => How::Code(u32::from(*code)),
        Exit::Signal(signal) => How::Signal(signal.number()),
        Exit::StartFailed { why } => How::StartFailed(why.clone()),
        Exit::Unknown { why } => How::Unknown(why.clone()),
    };
    wire::Ending { how: Some(how) }
}

/// What a message says of an exit.
pub fn record_from_wire(exited: &wire::Exited) -> ExitRecord {
    ExitRecord {
        how: ending_from_wire(exited.ending.as_ref()),
        at: from_ns(exited.at_ns),
        oom_killed: exited.oom_killed,
    }
}

/// What a message says of an end. A newer monitor's word that we do not understand is an unknown end, not an error:
/// the process has ended all the same.
pub(crate) fn ending_from_wire(ending: Option<&wire::Ending>) -> Exit {
    use wire::ending::How;
    let unknown = |why: &str| Exit::Unknown { why: why.to_owned() };
    match ending.and_then(|ending| ending.how.as_ref()) {
        Some(How::Code(code)) => u8::try_from(*code).map_or_else(|_| unknown("exit code out of range"), Exit::Code),
        Some(How::Signal(number)) => Signal::new(*number).map_or_else(|_| unknown("signal out of range"), Exit::Signal),
        Some(How::StartFailed(why)) => Exit::StartFailed { why: why.clone() },
        Some(How::Unknown(why)) => unknown(why),
        None => unknown("the monitor did not say how"),
    }
}

/// Nanoseconds since 1970; a clock before that counts as 1970, one after the year 2262 as then.
pub(crate) fn to_ns(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

pub(crate) fn from_ns(ns: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_survives_the_wire() {
        let container = ContainerId::from_random([7; 32]);
        for how in [
            Exit::Code(0),
            Exit::Code(255),
            Exit::Signal(Signal::KILL),
            Exit::StartFailed { why: "exec".into() },
            Exit::Unknown { why: "gone".into() },
        ] {
            let record = ExitRecord { how, at: from_ns(1_700_000_000_123_456_789), oom_killed: true };
            assert_eq!(record_from_wire(&exit_to_wire(&container, &record)), record);
        }
    }

    #[test]
    fn nonsense_is_an_unknown_end() {
        for how in [None, Some(wire::ending::How::Code(256)), Some(wire::ending::How::Signal(0))] {
            assert!(matches!(ending_from_wire(Some(&wire::Ending { how })), Exit::Unknown { .. }));
        }
    }
}
