//! RuntimeConfig: what the kubelet must do as we do. It asks at start, and its own setting then counts no more.

use api::cri::v1::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse};

use crate::error::Error;

/// Cgroups are made by mkdir: the one driver that is built.
pub(crate) fn answer(_: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
    let driver = CgroupDriver::Cgroupfs.into();
    Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver }) })
}
