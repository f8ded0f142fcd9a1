//! From an image's configuration to the facts that shape a container. Everything is checked here, once.

use std::path::{Path, PathBuf};

use model::{ARGUMENT_MAX, ARGUMENTS_MAX, Digest, EnvVar, ImageFacts, argument_space};
use oci_spec::image::ImageConfiguration;

use crate::{Error, Result};

/// Most that entrypoint, command and environment take together: half of what the kernel starts a program with. The
/// other half is the container's.
const GIVEN_MAX: usize = ARGUMENTS_MAX / 2;
/// Longest path, bytes without the NUL: the kernel's `PATH_MAX`.
const PATH_MAX: usize = 4095;
/// Most volumes, and bytes of their paths together: each is a mount of every container. A container may have 4096
/// mounts.
const VOLUMES_MAX: usize = 1024;
const VOLUME_BYTES_MAX: usize = 256 << 10;
/// Longest user and group, bytes; each stops at 255 in directories.
const USER_MAX: usize = 511;
/// Labels together, bytes: as many as a container may have.
const LABELS_MAX: usize = 1 << 20;

/// Reads the facts; refuses what no container could be made of.
pub(crate) fn facts(id: &Digest, config: &ImageConfiguration) -> Result<ImageFacts> {
    let refuse = |why: String| Error::Content { what: "configuration", digest: id.clone(), why };
    let mut facts = ImageFacts {
        id: id.clone(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        user: String::new(),
        volumes: Vec::new(),
        stop_signal: None,
    };
    // Of another processor it may be all the same: a host may know an interpreter for it.
    let system = config.os().to_string();
    if !matches!(system.as_str(), "linux" | "") {
        return Err(refuse(format!("it is of an image for {system:?}, and this is Linux")));
    }
    let Some(config) = config.config() else { return Ok(facts) };
    facts.entrypoint = config.entrypoint().clone().unwrap_or_default();
    facts.cmd = config.cmd().clone().unwrap_or_default();
    facts.user = config.user().clone().unwrap_or_default();
    let env = config.env().as_deref().unwrap_or_default();
    let volumes = config.volumes().as_deref().unwrap_or_default();
    let working_dir = config.working_dir().as_deref().unwrap_or_default();
    let texts = facts.entrypoint.iter().chain(&facts.cmd).chain([&facts.user]).chain(env).chain(volumes);
    if texts.map(String::as_str).chain([working_dir]).any(|text| text.contains('\0')) {
        return Err(refuse("it has a NUL in a text that the kernel would cut there".to_owned()));
    }
    // Without a name a variable cannot be set; without `=` it is one that has no value. Builders make both by accident.
    check_sizes(config).map_err(refuse)?;
    facts.env = env
        .iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")))
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| EnvVar { name: name.to_owned(), value: value.as_bytes().to_vec() })
        .collect();
    facts.working_dir = (!working_dir.is_empty()).then(|| absolute(working_dir));
    facts.volumes = volumes.iter().filter(|path| !path.is_empty()).map(|path| absolute(path)).collect();
    facts.volumes.sort();
    if let Some(signal) = config.stop_signal().as_deref().filter(|signal| !signal.is_empty()) {
        facts.stop_signal = Some(signal.parse().map_err(|e| refuse(format!("its StopSignal: {e}")))?);
    }
    Ok(facts)
}

/// That containers can be made of it at all: everything here goes into each of them.
fn check_sizes(config: &oci_spec::image::Config) -> Result<(), String> {
    let entrypoint = config.entrypoint().as_deref().unwrap_or_default();
    let cmd = config.cmd().as_deref().unwrap_or_default();
    let env = config.env().as_deref().unwrap_or_default();
    let given = || entrypoint.iter().chain(cmd).chain(env).map(String::len);
    let volumes = config.volumes().as_deref().unwrap_or_default();
    let labels = config.labels().iter().flatten();
    within("the longest of its Entrypoint, Cmd and Env", given().max().unwrap_or(0), ARGUMENT_MAX)?;
    let together = "its Entrypoint, Cmd and Env, as the kernel counts what a program is started with,";
    within(together, given().map(argument_space).sum(), GIVEN_MAX)?;
    within("its User", config.user().as_deref().unwrap_or_default().len(), USER_MAX)?;
    within("its WorkingDir", config.working_dir().as_deref().unwrap_or_default().len(), PATH_MAX)?;
    within("the longest of its Volumes", volumes.iter().map(String::len).max().unwrap_or(0), PATH_MAX)?;
    within("its Volumes", volumes.iter().map(String::len).sum(), VOLUME_BYTES_MAX)?;
    within("its Labels", labels.map(|(name, value)| name.len() + value.len()).sum(), LABELS_MAX)?;
    if volumes.len() > VOLUMES_MAX {
        return Err(format!("it has {} Volumes, at most {VOLUMES_MAX} are taken", volumes.len()));
    }
    Ok(())
}

fn within(what: &str, bytes: usize, most: usize) -> Result<(), String> {
    if bytes <= most {
        return Ok(());
    }
    Err(format!("{what} have {bytes} bytes, at most {most} are taken"))
}

/// A relative path in a configuration starts at the root.
fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Result<ImageFacts> {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{config}}}"#
        );
        facts(&Digest::from_sha256([0; 32]), &serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_configuration_becomes_checked_facts() {
        let facts = read(
            r#"{"User":"a:b","Env":["A=1=2","B","=x"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"srv",
                "Volumes":{"/v":{},"data":{}},"StopSignal":"SIGQUIT","Labels":null,"ExposedPorts":null}"#,
        )
        .unwrap();
        assert_eq!(facts.env.len(), 2);
        assert_eq!(facts.env[0], EnvVar { name: "A".into(), value: b"1=2".to_vec() });
        assert_eq!(facts.working_dir, Some("/srv".into()));
        assert_eq!(facts.volumes, [PathBuf::from("/data"), PathBuf::from("/v")]);
        assert_eq!(facts.stop_signal.map(|s| s.number()), Some(3));
    }

    #[test]
    fn empty_and_null_configurations_are_fine_and_absurd_ones_are_not() {
        for fine in ["null", "{}", r#"{"Cmd":null,"Env":null,"Volumes":null,"Entrypoint":null}"#] {
            assert!(read(fine).is_ok(), "{fine}");
        }
        for wrong in [r#"{"Cmd":["a\u0000b"]}"#, r#"{"StopSignal":"SIGNOPE"}"#, r#"{"WorkingDir":"/\u0000"}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_of_another_system_is_refused_by_name_and_one_of_another_processor_is_not() {
        let read = |os: &str, architecture: &str| {
            let text = format!(
                r#"{{"architecture":"{architecture}","os":"{os}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
            );
            facts(&Digest::from_sha256([0; 32]), &serde_json::from_str(&text).unwrap())
        };
        for (os, architecture) in [("linux", "amd64"), ("linux", "s390x"), ("", "amd64")] {
            assert!(read(os, architecture).is_ok(), "{os} {architecture}");
        }
        for os in ["windows", "freebsd", "Linux"] {
            assert!(read(os, "amd64").map(drop).unwrap_err().to_string().contains(os), "{os}");
        }
    }

    #[test]
    fn each_part_has_a_bound_that_it_reaches_and_does_not_pass() {
        fn list(name: &str, most: usize, text: impl Fn(usize) -> String) -> [String; 2] {
            let of = |count: usize| serde_json::json!({ name: (0..count).map(&text).collect::<Vec<_>>() }).to_string();
            [of(most), of(most + 1)]
        }
        fn map(name: &str, most: usize, entry: impl Fn(usize) -> (String, serde_json::Value)) -> [String; 2] {
            let of =
                |count| serde_json::json!({ name: serde_json::Map::from_iter((0..count).map(&entry)) }).to_string();
            [of(most), of(most + 1)]
        }
        fn text(name: &str, most: usize, around: impl Fn(String) -> serde_json::Value) -> [String; 2] {
            let of = |bytes| serde_json::json!({ name: around("a".repeat(bytes)) }).to_string();
            [of(most), of(most + 1)]
        }
        // 7 bytes of text, 9 for its NUL and its pointer.
        let many = GIVEN_MAX / 16;
        let nothing = serde_json::json!({});
        for [most, more] in [
            list("Env", many, |n| format!("{n:06}=")),
            list("Cmd", many, |n| format!("{n:07}")),
            list("Entrypoint", many, |n| format!("{n:07}")),
            text("Env", ARGUMENT_MAX - 2, |value| vec![format!("a={value}")].into()),
            text("Cmd", ARGUMENT_MAX, |word| vec![word].into()),
            text("User", USER_MAX, Into::into),
            text("WorkingDir", PATH_MAX, Into::into),
            text("Volumes", PATH_MAX, |path| serde_json::json!({ path: {} })),
            map("Volumes", VOLUMES_MAX, |n| (format!("/{n}"), nothing.clone())),
            map("Volumes", VOLUME_BYTES_MAX / 1024, |n| (format!("{n:01024}"), nothing.clone())),
            map("Labels", LABELS_MAX / 16, |n| (format!("{n:08}"), "12345678".into())),
        ] {
            let shown = &most[..most.len().min(40)];
            assert!(read(&most).is_ok(), "at its bound: {shown}: {:?}", read(&most).err().map(|e| e.to_string()));
            let refused = read(&more).map(drop).unwrap_err();
            assert!(matches!(&refused, Error::Content { why, .. } if why.contains("at most")), "{shown}: {refused}");
        }
    }
}
