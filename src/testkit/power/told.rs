//! What the guest tells before its power is cut, and what that binds the daemon to afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Error, Result, bail, ensure};
use tokio::time::MissedTickBehavior;

/// What was acknowledged so shortly before the cut may be gone, seconds.
const YOUNG: f64 = 1.0;

/// Longest time without a beat, seconds: emulated processors may be busy elsewhere for a while, not for so long.
const SILENCE: f64 = 5.0;

/// Between two beats.
const BEAT: Duration = Duration::from_millis(100);

/// Writes the lines, one at a time, and counts them.
#[derive(Debug, Clone)]
pub(crate) struct Teller(Arc<Mutex<usize>>);

impl Teller {
    pub(crate) fn new() -> Teller {
        Teller(Arc::default())
    }

    /// Says that something was acknowledged, or is begun.
    pub(crate) fn tell(&self, what: &str, name: &str) -> Result<()> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write(what, name)?;
        *told += 1;
        Ok(())
    }

    /// Says ten times a second how many were told; ends only if nobody can be told.
    pub(crate) async fn beat(&self) -> Result<()> {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            write("beat", &told.to_string())?;
        }
    }
}

fn write(what: &str, name: &str) -> Result<()> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let mut out = io::stdout().lock();
    writeln!(out, "{} {what} {name}", uptime.split(' ').next().unwrap_or_default())?;
    Ok(out.flush()?)
}

/// Everything that was told before a cut.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Images and pods, by kind and name, and when they were acknowledged, seconds since boot.
    acknowledged: BTreeMap<(String, String), f64>,
    /// Pods and images whose removal had begun.
    going: BTreeSet<String>,
    /// The last word: the guest lived at least until then.
    pub(crate) cut: f64,
}

impl FromStr for Told {
    type Err = Error;

    fn from_str(lines: &str) -> Result<Told> {
        let mut told = Told::default();
        let (mut count, mut last_beat) = (0, None);
        for line in lines.lines() {
            let [at, what, name] = line.split(' ').collect::<Vec<_>>()[..] else { bail!("no line: {line:?}") };
            let at: f64 = at.parse().with_context(|| format!("no line: {line:?}"))?;
            told.cut = told.cut.max(at);
            match what {
                "image" | "pod" => _ = told.acknowledged.insert((what.to_owned(), name.to_owned()), at),
                "removing" => _ = told.going.insert(name.to_owned()),
                "removed" => ensure!(told.going.contains(name), "removed, and nobody began: {line:?}"),
                "beat" => {
                    // A line that was lost on its way would be a promise that nobody is held to.
                    let said: usize = name.parse().with_context(|| format!("no line: {line:?}"))?;
                    ensure!(said == count, "{count} lines came before {line:?}");
                    last_beat = Some(at);
                    continue;
                }
                _ => bail!("no line: {line:?}"),
            }
            count += 1;
        }
        let last_beat = last_beat.context("there was no beat: nobody knows how long the guest has lived")?;
        ensure!(told.cut - last_beat < SILENCE, "the last beat came at {last_beat}, the last word at {}", told.cut);
        Ok(told)
    }
}

impl Told {
    /// Kind, name and time of all that must be listed after the cut.
    pub(crate) fn promised(&self) -> Vec<(&str, &str, f64)> {
        let of = self.acknowledged.iter().map(|((what, name), at)| (what.as_str(), name.as_str(), *at));
        of.filter(|(_, name, at)| *at < self.cut - YOUNG && !self.going.contains(*name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> Result<Told> {
        lines.join("\n").parse()
    }

    #[test]
    fn the_guest_lived_until_its_last_beat_and_what_is_a_second_older_is_promised() {
        let lines = ["9.0 beat 0", "10.00 image a", "10.50 pod p", "11.20 beat 2"];
        assert_eq!(told(&lines).unwrap().promised(), [("image", "a", 10.0)]);
        let more = [&lines[..], &["11.60 beat 2"]].concat();
        assert_eq!(told(&more).unwrap().promised(), [("image", "a", 10.0), ("pod", "p", 10.5)]);
    }

    #[test]
    fn a_pod_whose_removal_has_begun_is_promised_no_more() {
        let lines = ["10.0 pod p", "10.1 pod q", "10.2 removing q", "20.0 beat 3"];
        assert_eq!(told(&lines).unwrap().promised(), [("pod", "p", 10.0)]);
    }

    #[test]
    fn what_is_lost_torn_or_without_a_beat_is_told_from_what_is_whole() {
        for (lines, why) in [
            (&["10.0 pod p"][..], "no beat"),
            (&["1.0 beat 0", "10.0 pod p"], "last beat"),
            (&["10.0 pod p", "10.1 beat 2"], "1 lines came"),
            (&["10.0 pod", "10.1 beat 1"], "no line"),
            (&["ten pod p", "10.1 beat 1"], "no line"),
            (&["10.0 prince p", "10.1 beat 1"], "no line"),
            (&["10.0 removed p", "10.1 beat 1"], "nobody began"),
        ] {
            let refused = told(lines).unwrap_err();
            assert!(format!("{refused:#}").contains(why), "{lines:?}: {refused:#}");
        }
        assert!(told(&["1.0 beat 0", "9.0 beat 0"]).unwrap().promised().is_empty());
    }
}
