//! What each request is about: the id that its log lines carry.

use api::cri::v1;

/// The object that a request names.
pub(crate) enum Subject<'a> {
    /// None, or one that only the answer names.
    Nothing,
    /// A pod, by id or prefix.
    Pod(&'a str),
    /// A container, by id or prefix.
    Container(&'a str),
    /// An image, by any name.
    Image(&'a str),
}

/// A request of the contract.
pub(crate) trait About {
    /// What it is about.
    fn about(&self) -> Subject<'_> {
        Subject::Nothing
    }

    /// It only asks, and clients ask it all the time.
    fn is_quiet(&self) -> bool {
        true
    }
}

macro_rules! ask {
    ($($request:ident $(: $subject:ident($field:ident))?;)*) => {$(
        impl About for v1::$request {
            $(fn about(&self) -> Subject<'_> {
                Subject::$subject(&self.$field)
            })?
        }
    )*};
}

macro_rules! act {
    ($($request:ident $(: $subject:ident($field:ident))?;)*) => {$(
        impl About for v1::$request {
            $(fn about(&self) -> Subject<'_> {
                Subject::$subject(&self.$field)
            })?
            fn is_quiet(&self) -> bool {
                false
            }
        }
    )*};
}

macro_rules! image {
    ($($request:ident quiet $quiet:literal;)*) => {$(
        impl About for v1::$request {
            fn about(&self) -> Subject<'_> {
                self.image.as_ref().map_or(Subject::Nothing, |spec| Subject::Image(&spec.image))
            }
            fn is_quiet(&self) -> bool {
                $quiet
            }
        }
    )*};
}

ask! {
    VersionRequest;
    StatusRequest;
    RuntimeConfigRequest;
    PodSandboxStatusRequest: Pod(pod_sandbox_id);
    ListPodSandboxRequest;
    StreamPodSandboxesRequest;
    ContainerStatusRequest: Container(container_id);
    ListContainersRequest;
    StreamContainersRequest;
    ListImagesRequest;
    StreamImagesRequest;
    ImageFsInfoRequest;
    // A probe runs one every few seconds.
    ExecSyncRequest: Container(container_id);
    ContainerStatsRequest: Container(container_id);
    ListContainerStatsRequest;
    StreamContainerStatsRequest;
    PodSandboxStatsRequest: Pod(pod_sandbox_id);
    ListPodSandboxStatsRequest;
    StreamPodSandboxStatsRequest;
    ListMetricDescriptorsRequest;
    ListPodSandboxMetricsRequest;
    StreamPodSandboxMetricsRequest;
    GetEventsRequest;
}

act! {
    UpdateRuntimeConfigRequest;
    RunPodSandboxRequest;
    StopPodSandboxRequest: Pod(pod_sandbox_id);
    RemovePodSandboxRequest: Pod(pod_sandbox_id);
    UpdatePodSandboxResourcesRequest: Pod(pod_sandbox_id);
    CreateContainerRequest: Pod(pod_sandbox_id);
    StartContainerRequest: Container(container_id);
    StopContainerRequest: Container(container_id);
    RemoveContainerRequest: Container(container_id);
    UpdateContainerResourcesRequest: Container(container_id);
    ReopenContainerLogRequest: Container(container_id);
    ExecRequest: Container(container_id);
    AttachRequest: Container(container_id);
    PortForwardRequest: Pod(pod_sandbox_id);
    CheckpointContainerRequest: Container(container_id);
    CheckpointPodRequest: Pod(pod_sandbox_id);
    RestorePodRequest;
}

image! {
    ImageStatusRequest quiet true;
    PullImageRequest quiet false;
    RemoveImageRequest quiet false;
}
