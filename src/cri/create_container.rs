//! CreateContainer: all of a container but its running, in a ready pod.

use api::cri::v1::{CreateContainerRequest, CreateContainerResponse};
use model::{ContainerPid, ContainerPlan, PidMode, PodPlan};
use pods::Pods;

use crate::{
    door,
    error::Error,
    field::Field,
    request::{Host, container, text},
};

/// Checks the configuration and creates the container. The pod's configuration in the request is a copy of what
/// RunPodSandbox had; the pod as it is counts.
pub(crate) async fn answer(
    request: CreateContainerRequest,
    pods: &Pods,
    host: &Host,
) -> Result<CreateContainerResponse, Error> {
    let pod = text::id(&Field::root("pod_sandbox_id"), request.pod_sandbox_id)?;
    let plan = container::plan(request.config, host)?;
    let view = pods.find(&pod)?;
    let plan = within(plan, &view.plan)?;
    let id = pods.create(view.id.as_str(), plan).await?;
    door::made("container", id.as_str());
    Ok(CreateContainerResponse { container_id: id.to_string() })
}

/// The plan as it is within this pod.
fn within(mut plan: ContainerPlan, pod: &PodPlan) -> Result<ContainerPlan, Error> {
    if plan.security.privileged && !pod.privileged {
        let config = Field::root("config");
        let (linux, want) = (config.at("linux"), "a pod that was run as privileged");
        return Err(Error::invalid(&linux.at("security_context").at("privileged"), true, want));
    }
    // "The pod's" is also what an absent field says. In a pod that shares nothing, or the host's, it means just that.
    if plan.security.pid == ContainerPid::Pod {
        plan.security.pid = match pod.namespaces.pid {
            PidMode::Pod => ContainerPid::Pod,
            PidMode::Container => ContainerPid::Container,
            PidMode::Host => ContainerPid::Host,
        };
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{kubelet, pod};

    fn plans() -> (ContainerPlan, PodPlan) {
        let host = Host::plain();
        let pod = pod::plan(Some(kubelet::pod()), String::new(), &host).unwrap();
        (container::plan(Some(kubelet::container()), &host).unwrap(), pod)
    }

    #[test]
    fn a_privileged_container_needs_a_privileged_pod() {
        let (mut plan, mut pod) = plans();
        plan.security.privileged = true;
        let error = within(plan.clone(), &pod).unwrap_err().to_string();
        assert!(error.starts_with("config.linux.security_context.privileged: true"), "{error}");
        pod.privileged = true;
        assert!(within(plan, &pod).is_ok());
    }

    #[test]
    fn the_pods_processes_are_whatever_the_pod_has() {
        let (mut plan, mut pod) = plans();
        plan.security.pid = ContainerPid::Pod;
        for (mode, seen) in [
            (PidMode::Pod, ContainerPid::Pod),
            (PidMode::Container, ContainerPid::Container),
            (PidMode::Host, ContainerPid::Host),
        ] {
            pod.namespaces.pid = mode;
            assert_eq!(within(plan.clone(), &pod).unwrap().security.pid, seen);
        }
    }
}
