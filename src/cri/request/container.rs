//! A container's configuration becomes a [`ContainerPlan`].

use std::path::PathBuf;

use api::cri::v1;
use model::{ContainerMetadata, ContainerPlan, Resources, Security, Stdin};

use super::{Host, environment, image, mounts, resources, security, signal, text};
use crate::{error::Error, field::Field};

/// Device plugins once named CDI devices in annotations of this beginning.
const CDI_ANNOTATIONS: &str = "cdi.k8s.io/";

/// The plan of a container, from the configuration at `config`.
pub(crate) fn plan(config: Option<v1::ContainerConfig>, host: &Host) -> Result<ContainerPlan, Error> {
    let field = Field::root("config");
    let config = text::present(&field, config)?;
    if let Some(windows) = config.windows {
        return Err(Error::refused(&field.at("windows"), windows, "this is a Linux node"));
    }
    if !config.cdi_devices.is_empty() {
        let names: Vec<_> = config.cdi_devices.iter().map(|device| &device.name).collect();
        return Err(Error::refused(&field.at("CDI_devices"), names, "CDI devices are not built yet"));
    }
    let annotations = text::echoed(&field.at("annotations"), config.annotations)?;
    if let Some((key, value)) = annotations.iter().find(|(key, _)| key.starts_with(CDI_ANNOTATIONS)) {
        return Err(Error::refused(&field.at("annotations").key(key), value, "CDI devices are not built yet"));
    }
    let mut given = environment::Given::default();
    let (resources, security) = linux(&field.at("linux"), config.linux, host)?;
    Ok(ContainerPlan {
        metadata: metadata(&field.at("metadata"), config.metadata)?,
        image: image::request(&field.at("image"), config.image, host)?,
        command: given.words(&field.at("command"), config.command)?,
        args: given.words(&field.at("args"), config.args)?,
        working_dir: match config.working_dir {
            none if none.is_empty() => None,
            given => Some(text::absolute(&field.at("working_dir"), given)?),
        },
        envs: given.variables(&field.at("envs"), config.envs)?,
        mounts: mounts::mounts(&field.at("mounts"), config.mounts)?,
        devices: mounts::devices(&field.at("devices"), config.devices)?,
        labels: text::echoed(&field.at("labels"), config.labels)?,
        annotations,
        log_path: log_path(&field.at("log_path"), config.log_path)?,
        stdin: match (config.stdin, config.stdin_once) {
            (false, _) => Stdin::Null,
            (true, false) => Stdin::Open,
            (true, true) => Stdin::Once,
        },
        tty: config.tty,
        stop_signal: signal::stop_signal(&field.at("stop_signal"), config.stop_signal)?,
        resources,
        security,
    })
}

fn linux(
    field: &Field<'_>,
    linux: Option<v1::LinuxContainerConfig>,
    host: &Host,
) -> Result<(Resources, Security), Error> {
    let linux = linux.unwrap_or_default();
    let resources = match linux.resources {
        Some(wire) => resources::resources(&field.at("resources"), wire)?,
        None => Resources::default(),
    };
    Ok((resources, security::of_container(&field.at("security_context"), linux.security_context, host)?))
}

fn metadata(field: &Field<'_>, wire: Option<v1::ContainerMetadata>) -> Result<ContainerMetadata, Error> {
    let wire = text::present(field, wire)?;
    Ok(ContainerMetadata { name: text::identity(&field.at("name"), wire.name)?, attempt: wire.attempt })
}

/// The log stays below the pod's log directory, whatever the request says.
fn log_path(field: &Field<'_>, path: String) -> Result<Option<PathBuf>, Error> {
    if path.is_empty() {
        return Ok(None);
    }
    let path = text::without_parents(field, text::path(field, path)?)?;
    if path.is_absolute() || path.file_name().is_none() {
        return Err(Error::invalid(field, path, "a file below the pod's log directory"));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests;
