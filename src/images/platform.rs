//! Which image of an index is for this machine.

use oci_spec::image::{Descriptor, ImageIndex};

/// Set by builders on entries that are not images.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// A machine's platforms, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platforms(Vec<(&'static str, &'static str)>);

impl Platforms {
    /// Those that this machine runs.
    pub(crate) fn of_this_machine() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self::amd64(amd64_level()),
            "aarch64" => Self::arm64(),
            "riscv64" => Self(vec![("riscv64", "")]),
            other => Self(vec![(other, "")]),
        }
    }

    /// x86-64 up to this micro-architecture level, then 32-bit x86.
    fn amd64(level: u8) -> Self {
        let levels = [(4, "v4"), (3, "v3"), (2, "v2"), (1, "v1")];
        let ours = levels.iter().filter(|(n, _)| *n <= level).map(|(_, variant)| ("amd64", *variant));
        Self(ours.chain([("386", "")]).collect())
    }

    /// 64-bit ARM, then 32-bit down the generations.
    fn arm64() -> Self {
        Self(vec![("arm64", "v8"), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")])
    }

    /// The best entry of an index, if any is for us.
    pub(crate) fn choose<'a>(&self, index: &'a ImageIndex) -> Option<&'a Descriptor> {
        let rated = index.manifests().iter().filter_map(|entry| Some((self.rank(entry)?, entry)));
        // The first of equals: `min_by_key` keeps it.
        rated.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
    }

    /// Whether the entry is an image for this machine.
    pub(crate) fn run(&self, entry: &Descriptor) -> bool {
        self.rank(entry).is_some()
    }

    fn rank(&self, entry: &Descriptor) -> Option<usize> {
        if entry.annotations().as_ref().is_some_and(|annotations| annotations.contains_key(ATTESTATION)) {
            return None;
        }
        // An entry that names no platform is for every one, if nothing better is there.
        let Some(platform) = entry.platform() else { return Some(self.0.len()) };
        if platform.os().to_string() != "linux" {
            return None;
        }
        let architecture = platform.architecture().to_string();
        let variant = match (platform.variant().as_deref().unwrap_or_default(), architecture.as_str()) {
            ("", "amd64") => "v1",
            ("", "arm64") | ("8", "arm64") => "v8",
            ("", "arm") => "v7",
            (variant, _) => variant,
        };
        self.0.iter().position(|ours| *ours == (architecture.as_str(), variant))
    }
}

impl std::fmt::Display for Platforms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (architecture, variant) = self.0.first().copied().unwrap_or_default();
        write!(f, "linux/{architecture}{}{variant}", if variant.is_empty() { "" } else { "/" })
    }
}

/// The highest x86-64 level (psABI) that this processor has.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma");
    let v3 = v2 && v3 && has!("lzcnt") && has!("movbe");
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v3 && v4) {
        (_, _, true) => 4,
        (_, true, _) => 3,
        (true, ..) => 2,
        _ => 1,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(entries: &[&str]) -> ImageIndex {
        let entries: Vec<String> = entries
            .iter()
            .enumerate()
            .map(|(n, rest)| {
                let digest = model::Digest::from_sha256([u8::try_from(n).unwrap(); 32]);
                format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1{rest}}}"#, crate::manifest::OCI_MANIFEST)
            })
            .collect();
        serde_json::from_str(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))).unwrap()
    }

    fn platform(architecture: &str, variant: &str) -> String {
        format!(r#","platform":{{"os":"linux","architecture":"{architecture}","variant":"{variant}"}}"#)
    }

    fn chosen(platforms: &Platforms, entries: &[&str]) -> Option<usize> {
        let index = index(entries);
        let chosen = platforms.choose(&index)?;
        index.manifests().iter().position(|entry| entry == chosen)
    }

    #[test]
    fn the_best_variant_that_the_machine_has_is_chosen() {
        let (v1, v2, v3, v4) = ("", platform("amd64", "v2"), platform("amd64", "v3"), platform("amd64", "v4"));
        let v1 = format!("{}{v1}", platform("amd64", ""));
        let all = [v1.as_str(), &v4, &v2, &v3];
        assert_eq!(chosen(&Platforms::amd64(4), &all), Some(1));
        assert_eq!(chosen(&Platforms::amd64(3), &all), Some(3));
        assert_eq!(chosen(&Platforms::amd64(1), &all), Some(0));
        assert_eq!(chosen(&Platforms::amd64(1), &[&v4, &platform("386", "")]), Some(1));
        assert_eq!(chosen(&Platforms::arm64(), &[&v1, &platform("arm", "v7"), &platform("arm64", "")]), Some(2));
    }

    #[test]
    fn what_is_not_an_image_or_not_for_us_is_never_chosen() {
        let windows = r#","platform":{"os":"windows","architecture":"amd64"}"#;
        let unknown = r#","platform":{"os":"unknown","architecture":"unknown"}"#;
        let attestation = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let arm = platform("arm64", "v8");
        assert_eq!(chosen(&Platforms::amd64(4), &[windows, unknown, attestation, &arm]), None);
        assert_eq!(chosen(&Platforms::amd64(4), &[attestation, "", &platform("386", "")]), Some(2));
        assert_eq!(chosen(&Platforms::amd64(4), &[attestation, ""]), Some(1));
    }
}
