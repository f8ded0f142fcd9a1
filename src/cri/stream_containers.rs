//! StreamContainers: the same list as ListContainers, in pieces.

use api::cri::v1::{StreamContainersRequest, StreamContainersResponse};
use bytes::Bytes;
use pods::Pods;

use crate::{
    answer::chunk::{Pieces, pieces},
    error::Error,
    list_containers,
};

/// The list as of now.
pub(crate) fn answer(request: StreamContainersRequest, pods: &Pods) -> Result<Pieces<StreamContainersResponse>, Error> {
    let items = list_containers::items(request.filter, pods)?;
    Ok(pieces(items, Bytes::len, |containers| StreamContainersResponse { containers }))
}
