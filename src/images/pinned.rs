//! Which images the settings pin, so that the kubelet's garbage collection leaves them alone.
//!
//! In the three forms that CRI-O's `pinned_images` has: a whole name, the beginning of names (`r.io/base/*`), and a
//! part of names (`*pause*`). A whole name is read as a pod spec's would be, `busybox` being short for
//! `docker.io/library/busybox:latest`; the others are parts of such whole names, with a tag or with a digest.

use model::ImageRef;

use crate::{Config, Error, Result};

/// What stands for anything.
const ANYTHING: char = '*';

/// The names of the settings.
#[derive(Debug, Default)]
pub(crate) struct Pins(Vec<Pin>);

#[derive(Debug, PartialEq, Eq)]
enum Pin {
    Whole(String),
    Beginning(String),
    Part(String),
}

impl Pins {
    /// Those that can be read; others are told in the log.
    pub(crate) fn of(config: &Config) -> Self {
        let read = |text: &String| match Pin::read(text) {
            Ok(pin) => Some(pin),
            Err(error) => {
                tracing::warn!(%error, "images.pinned: ignored");
                None
            }
        };
        Self(config.pinned.iter().filter_map(read).collect())
    }

    /// Refuses what names no image and is no pattern.
    pub(crate) fn check(config: &Config) -> Result<()> {
        config.pinned.iter().try_for_each(|text| Pin::read(text).map(drop))
    }

    /// Whether any of them is meant by one of an image's names.
    pub(crate) fn hold<'a>(&self, mut names: impl Iterator<Item = &'a String>) -> bool {
        names.any(|name| self.0.iter().any(|pin| pin.matches(name)))
    }
}

impl Pin {
    fn read(text: &str) -> Result<Self> {
        let refuse = |why| Err(Error::SettingPattern { key: "pinned", text: text.to_owned(), why });
        let Some(first) = text.strip_suffix(ANYTHING) else {
            if text.contains(ANYTHING) {
                return refuse("a * stands at the end, or at both ends");
            }
            let name = text.parse::<ImageRef>();
            return name
                .map(|name| Pin::Whole(name.to_string()))
                .map_err(|source| Error::SettingName { key: "pinned", source });
        };
        let pin = match first.strip_prefix(ANYTHING) {
            Some("") => return refuse("nothing stands between its two *; all images are pinned by one"),
            Some(part) => Pin::Part(part.to_owned()),
            None => Pin::Beginning(first.to_owned()),
        };
        match &pin {
            Pin::Beginning(rest) | Pin::Part(rest) if rest.contains(ANYTHING) => {
                refuse("a * stands at the end, or at both ends")
            }
            _ => Ok(pin),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Pin::Whole(whole) => name == whole,
            Pin::Beginning(beginning) => name.starts_with(beginning),
            Pin::Part(part) => name.contains(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_whole_name_a_beginning_or_a_part() {
        let digest = format!("r.io/base/x@sha256:{}", "a".repeat(64));
        let names = ["docker.io/library/busybox:latest", "r.io/base/x:1", "r.io/pause:3.9", &digest];
        for (pin, pinned) in [
            ("busybox", &[0][..]),
            ("docker.io/library/busybox:latest", &[0]),
            ("r.io/base/x:1", &[1]),
            (&digest, &[3]),
            // Without its tag it is short for another.
            ("r.io/pause", &[]),
            ("r.io/base/*", &[1, 3]),
            ("r.io/pause*", &[2]),
            // Of whole names.
            ("busybox*", &[]),
            ("*busybox*", &[0]),
            ("*pause*", &[2]),
            ("*@sha256:*", &[3]),
            ("*.io/*", &[0, 1, 2, 3]),
            ("*", &[0, 1, 2, 3]),
        ] {
            let config = Config { pinned: vec![pin.to_owned()], ..Config::default() };
            Pins::check(&config).unwrap();
            let pins = Pins::of(&config);
            let found: Vec<usize> = (0..names.len()).filter(|n| pins.hold([names[*n].to_owned()].iter())).collect();
            assert_eq!(found, pinned, "{pin}");
        }
        assert!(!Pins::default().hold(["r.io/x:1".to_owned()].iter()));
    }

    #[test]
    fn what_is_neither_a_name_nor_a_pattern_is_refused_by_name() {
        for wrong in ["", "r.io/Upper", "*pause", "r.io/*/x", "r.io/*/*", "**", "***", "*a*b*"] {
            let config = Config { pinned: vec!["r.io/x:1".to_owned(), wrong.to_owned()], ..Config::default() };
            let error = Pins::check(&config).unwrap_err();
            let text =
                format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
            assert!(text.contains("pinned") && text.contains(wrong), "{wrong}: {text}");
            // What is right beside it counts.
            assert!(Pins::of(&config).hold(["r.io/x:1".to_owned()].iter()));
        }
    }
}
