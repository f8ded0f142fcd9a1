//! ListPodSandbox: the pods that pass a filter. From memory; asked every second.

use api::cri::v1::{ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter};
use pods::Pods;

use crate::{answer::pod, error::Error, request::filter};

/// The list.
pub(crate) fn answer(request: ListPodSandboxRequest, pods: &Pods) -> Result<ListPodSandboxResponse, Error> {
    Ok(ListPodSandboxResponse { items: items(request.filter, pods)? })
}

/// Pods that pass; an id that does not exist gives none.
pub(crate) fn items(filter: Option<PodSandboxFilter>, pods: &Pods) -> Result<Vec<PodSandbox>, Error> {
    let filter = filter::Pods::read(filter)?;
    let views = pods.list();
    let passing = views.iter().filter(|view| filter.passes(view.id.as_str(), pod::state(view), &view.plan.labels));
    Ok(passing.map(|view| pod::item(view)).collect())
}
