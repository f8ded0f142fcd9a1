//! A container's life as a type: each phase holds only the facts that exist in it.
//!
//! ```text
//!            start            exit
//!  Created ────────▶ Running ──────▶ Exited
//!     │ exit / start failed            ▲
//!     └────────────────────────────────┤
//!  Unsettled ──── settled as any ──────┘   (found on disk after a restart; its monitor has not spoken yet)
//! ```

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Exit, ExitRecord};

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its first process waits just before `exec`.
    Created,
    /// Its program runs.
    Running {
        /// Process id in the host's pid namespace.
        pid: i32,
        /// When `exec` succeeded.
        since: SystemTime,
    },
    /// Its first process has ended; nothing of it runs.
    Exited {
        /// When it had started; `None` when it never ran.
        started: Option<SystemTime>,
        /// How and when it ended.
        record: ExitRecord,
    },
    /// Found on disk after a restart of the daemon; its monitor has not yet said what is true.
    Unsettled {
        /// When it had started, as far as the record knows.
        started: Option<SystemTime>,
    },
}

/// What can happen to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `exec` succeeded.
    Started {
        /// Process id in the host's pid namespace.
        pid: i32,
        /// When.
        at: SystemTime,
    },
    /// The first process has been reaped, or could not be started.
    Ended(ExitRecord),
    /// After a restart: the monitor says that it still waits for its start.
    FoundCreated,
    /// After a restart: the monitor says that it runs.
    FoundRunning {
        /// Process id in the host's pid namespace.
        pid: i32,
        /// When it had started.
        since: SystemTime,
    },
}

/// An event that cannot happen in this phase: a bug in the caller or a lying monitor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {phase} cannot take the event {event}")]
pub struct Refused {
    /// The phase, by name.
    pub phase: &'static str,
    /// The event, by name.
    pub event: &'static str,
}

impl Phase {
    /// The phase after `event`. The one place where every legal arrow stands.
    pub fn after(self, event: Event) -> Result<Phase, Refused> {
        let refused = Refused { phase: self.name(), event: event.name() };
        match (self, event) {
            (Phase::Created, Event::Started { pid, at }) => Ok(Phase::Running { pid, since: at }),
            (Phase::Created, Event::Ended(record)) => {
                // A start that failed has, for the kubelet, started and finished at the same moment.
                let started = matches!(record.how, Exit::StartFailed { .. }).then_some(record.at);
                Ok(Phase::Exited { started, record })
            }
            (Phase::Running { since, .. }, Event::Ended(record)) => {
                // The wall clock may have been set back meanwhile; no container ends before it started.
                let record = ExitRecord { at: record.at.max(since), ..record };
                Ok(Phase::Exited { started: Some(since), record })
            }
            (Phase::Unsettled { .. }, Event::FoundCreated) => Ok(Phase::Created),
            (Phase::Unsettled { .. }, Event::FoundRunning { pid, since }) => Ok(Phase::Running { pid, since }),
            (Phase::Unsettled { started }, Event::Ended(record)) => {
                let record = ExitRecord { at: started.map_or(record.at, |since| record.at.max(since)), ..record };
                Ok(Phase::Exited { started, record })
            }
            _ => Err(refused),
        }
    }

    /// The phase's name in logs and errors.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running { .. } => "running",
            Phase::Exited { .. } => "exited",
            Phase::Unsettled { .. } => "unsettled",
        }
    }
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Event::Started { .. } => "started",
            Event::Ended(_) => "ended",
            Event::FoundCreated => "found created",
            Event::FoundRunning { .. } => "found running",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn ended(seconds: u64) -> ExitRecord {
        ExitRecord { how: Exit::Code(0), at: at(seconds), oom_killed: false }
    }

    #[test]
    fn every_phase_and_event_pair_has_one_answer() {
        let phases = [
            Phase::Created,
            Phase::Running { pid: 7, since: at(10) },
            Phase::Exited { started: Some(at(10)), record: ended(20) },
            Phase::Unsettled { started: Some(at(10)) },
        ];
        let events = [
            Event::Started { pid: 7, at: at(10) },
            Event::Ended(ended(20)),
            Event::FoundCreated,
            Event::FoundRunning { pid: 7, since: at(10) },
        ];
        let expected = [
            ["running", "exited", "-", "-"],
            ["-", "exited", "-", "-"],
            ["-", "-", "-", "-"],
            ["-", "exited", "created", "running"],
        ];
        for (phase, row) in phases.iter().zip(expected) {
            for (event, want) in events.iter().zip(row) {
                let got = phase.clone().after(event.clone());
                assert_eq!(got.as_ref().map_or("-", Phase::name), want, "{} × {}", phase.name(), event.name());
            }
        }
    }

    #[test]
    fn nothing_ends_before_it_started_even_when_the_clock_was_set_back() {
        let ran = Phase::Running { pid: 7, since: at(10) }.after(Event::Ended(ended(3))).unwrap();
        assert_eq!(ran, Phase::Exited { started: Some(at(10)), record: ended(10) });
    }
}
