//! UpdateRuntimeConfig: the node's pod range has changed. Our network has its range from its own configuration, as CNI
//! has it, so there is nothing to do; a kubelet must never hear an error here.

use api::cri::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};

use crate::error::Error;

/// Acknowledges.
pub(crate) fn answer(_: UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse, Error> {
    Ok(UpdateRuntimeConfigResponse {})
}
