//! Names of images as people write them.

use model::ImageRef;

/// What is left out of names of the registry that is meant anyway.
const OFFICIAL: &str = "docker.io/library/";
const DEFAULT: &str = "docker.io/";
/// Digits of an id that people are shown.
const SHORT: usize = 12;

/// A name in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// As short as it still means the same.
    pub(crate) repository: String,
    /// Empty in a name by digest.
    pub(crate) tag: String,
    /// Empty in a name by tag.
    pub(crate) digest: String,
}

impl Name {
    /// Reads a whole name, as the daemon tells them.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let reference: ImageRef = text.parse().ok()?;
        Some(Self {
            repository: familiar(&reference.name()),
            tag: reference.tag().unwrap_or_default().to_owned(),
            digest: reference.digest().map(ToString::to_string).unwrap_or_default(),
        })
    }
}

/// A repository without what is meant anyway.
pub(crate) fn familiar(repository: &str) -> String {
    let means_the_same = |short: &&str| short.parse::<ImageRef>().is_ok_and(|own| own.name() == repository);
    let shorter = [OFFICIAL, DEFAULT].iter().filter_map(|prefix| repository.strip_prefix(prefix));
    shorter.into_iter().find(means_the_same).unwrap_or(repository).to_owned()
}

/// A whole name, with its repository as people write it.
pub(crate) fn familiar_name(name: &str) -> String {
    let Some(Name { repository, tag, digest }) = Name::read(name) else { return name.to_owned() };
    if digest.is_empty() { format!("{repository}:{tag}") } else { format!("{repository}@{digest}") }
}

/// The beginning of a digest.
pub(crate) fn short_id(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..SHORT).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_as_short_as_it_still_means_the_same() {
        for (whole, short) in [
            ("docker.io/library/busybox", "busybox"),
            ("docker.io/a/b", "a/b"),
            ("r.io:5000/x", "r.io:5000/x"),
            // Without the host it would be a host itself.
            ("docker.io/x.y/z", "docker.io/x.y/z"),
            ("docker.io/library/x/y", "library/x/y"),
        ] {
            assert_eq!(familiar(whole), short);
        }
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("ab"), "ab");
        assert_eq!(familiar_name("docker.io/library/busybox:1"), "busybox:1");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(familiar_name(&format!("docker.io/a/b@{digest}")), format!("a/b@{digest}"));
        let name = Name::read("docker.io/library/busybox:1").unwrap();
        assert_eq!((name.repository.as_str(), name.tag.as_str(), name.digest.as_str()), ("busybox", "1", ""));
    }
}
