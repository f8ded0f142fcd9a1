//! Containers as the kubelet wants them.

use api::cri::v1::{self, ContainerState};
use model::{Phase, Resources};
use pods::ContainerView;

use super::time::nanoseconds;
use crate::request::{mounts, signal};

/// The state of a container.
pub(crate) fn state(phase: &Phase) -> ContainerState {
    match phase {
        Phase::Created => ContainerState::ContainerCreated,
        Phase::Running { .. } => ContainerState::ContainerRunning,
        Phase::Exited { .. } => ContainerState::ContainerExited,
        Phase::Unsettled { .. } => ContainerState::ContainerUnknown,
    }
}

/// A container in a list.
pub(crate) fn item(view: &ContainerView) -> v1::Container {
    let plan = &view.plan;
    v1::Container {
        id: view.id.to_string(),
        pod_sandbox_id: view.pod.to_string(),
        metadata: Some(metadata(view)),
        image: Some(image_spec(view, plan.image.image.clone())),
        image_ref: view.image.id.to_string(),
        state: state(&view.phase).into(),
        created_at: nanoseconds(view.created_at),
        labels: plan.labels.clone(),
        annotations: plan.annotations.clone(),
        image_id: view.image.id.to_string(),
    }
}

/// The status of a container.
pub(crate) fn status(view: &ContainerView) -> v1::ContainerStatus {
    let (plan, id) = (&view.plan, view.image.id.to_string());
    let (started_at, finished_at, exit_code) = match &view.phase {
        Phase::Created => (0, 0, 0),
        Phase::Running { since, .. } => (nanoseconds(*since), 0, 0),
        Phase::Exited { started, record } => {
            (started.map_or(0, nanoseconds), nanoseconds(record.at), record.how.code())
        }
        Phase::Unsettled { started } => (started.map_or(0, nanoseconds), 0, 0),
    };
    let user = &view.launch.process.user;
    v1::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(view)),
        state: state(&view.phase).into(),
        created_at: nanoseconds(view.created_at),
        started_at,
        finished_at,
        exit_code,
        image: Some(image_spec(view, view.image.tag.clone().unwrap_or_else(|| id.clone()))),
        // The kubelet refuses a status without one, even when the image has long gone.
        image_ref: view.image.digest.clone().unwrap_or_else(|| id.clone()),
        reason: view.reason().to_owned(),
        message: view.message().to_owned(),
        labels: plan.labels.clone(),
        annotations: plan.annotations.clone(),
        mounts: plan.mounts.iter().map(mounts::echoed).collect(),
        log_path: view.log_path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        resources: Some(v1::ContainerResources { linux: Some(resources(&plan.resources)), windows: None }),
        image_id: id,
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
            }),
        }),
        stop_signal: signal::to_wire(view.stop_signal()).into(),
    }
}

fn metadata(view: &ContainerView) -> v1::ContainerMetadata {
    let metadata = &view.plan.metadata;
    v1::ContainerMetadata { name: metadata.name.clone(), attempt: metadata.attempt }
}

fn image_spec(view: &ContainerView, image: String) -> v1::ImageSpec {
    let asked = &view.plan.image;
    v1::ImageSpec {
        image,
        annotations: asked.annotations.clone(),
        user_specified_image: asked.user_specified.clone(),
        runtime_handler: String::new(),
        image_ref: String::new(),
    }
}

/// Limits as they were asked for, digit by digit: the kubelet compares them when it resizes.
pub(crate) fn resources(resources: &Resources) -> v1::LinuxContainerResources {
    let unsigned = |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX));
    v1::LinuxContainerResources {
        cpu_period: unsigned(resources.cpu_period_us),
        cpu_quota: resources.cpu_quota_us.unwrap_or_default(),
        cpu_shares: unsigned(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit_bytes.unwrap_or_default(),
        oom_score_adj: resources.oom_score_adj.unwrap_or_default().into(),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: resources
            .hugepages
            .iter()
            .map(|pages| v1::HugepageLimit { page_size: pages.page_size.clone(), limit: pages.limit_bytes })
            .collect(),
        unified: resources.unified.clone(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
