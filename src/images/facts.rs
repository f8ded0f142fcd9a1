//! From an image's configuration to the facts that shape a container. Everything is checked here, once.

use std::path::{Path, PathBuf};

use model::{Digest, EnvVar, ImageFacts};
use oci_spec::image::ImageConfiguration;

use crate::{Error, Result};

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
}
