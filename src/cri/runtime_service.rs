//! The RuntimeService: each call goes through the door to the file of its name, or is refused by name.

use api::cri::v1::{
    AttachRequest, AttachResponse, CheckpointContainerRequest, CheckpointContainerResponse, CheckpointPodRequest,
    CheckpointPodResponse, ContainerEventResponse, ContainerStatsRequest, ContainerStatsResponse,
    ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest, CreateContainerResponse, ExecRequest,
    ExecResponse, ExecSyncRequest, ExecSyncResponse, GetEventsRequest, ListContainerStatsRequest,
    ListContainerStatsResponse, ListContainersRequest, ListContainersResponse, ListMetricDescriptorsRequest,
    ListMetricDescriptorsResponse, ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, ListPodSandboxRequest,
    ListPodSandboxResponse, ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStatsRequest,
    PodSandboxStatsResponse, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    PortForwardResponse, RemoveContainerRequest, RemoveContainerResponse, RemovePodSandboxRequest,
    RemovePodSandboxResponse, ReopenContainerLogRequest, ReopenContainerLogResponse, RestorePodRequest,
    RestorePodResponse, RunPodSandboxRequest, RunPodSandboxResponse, RuntimeConfigRequest, RuntimeConfigResponse,
    StartContainerRequest, StartContainerResponse, StatusRequest, StatusResponse, StopContainerRequest,
    StopContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse, StreamContainerStatsRequest,
    StreamContainerStatsResponse, StreamContainersRequest, StreamContainersResponse, StreamPodSandboxMetricsRequest,
    StreamPodSandboxMetricsResponse, StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
    StreamPodSandboxesRequest, StreamPodSandboxesResponse, UpdateContainerResourcesRequest,
    UpdateContainerResourcesResponse, UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse,
    UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
    runtime_service_server::RuntimeService,
};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    Cri, answer::chunk::Pieces, container_status, create_container, door, exec_sync, list_containers, list_pod_sandbox,
    pod_sandbox_status, remove_container, remove_pod_sandbox, reopen_container_log, run_pod_sandbox, runtime_config,
    runtime_status, start_container, stop_container, stop_pod_sandbox, stream_containers, stream_pod_sandboxes,
    unbuilt, update_runtime_config, version,
};

#[async_trait]
impl RuntimeService for Cri {
    async fn version(&self, request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        door::pass("Version", request, async |request| version::answer(request)).await
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        door::pass("Status", request, async |request| {
            let state = runtime_status::State { pods: self.pods.readiness(), network: self.network.report() };
            runtime_status::answer(request, state, &self.host, &self.config)
        })
        .await
    }

    async fn runtime_config(
        &self,
        request: Request<RuntimeConfigRequest>,
    ) -> Result<Response<RuntimeConfigResponse>, Status> {
        door::pass("RuntimeConfig", request, async |request| runtime_config::answer(request)).await
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Result<Response<UpdateRuntimeConfigResponse>, Status> {
        door::pass("UpdateRuntimeConfig", request, |request| update_runtime_config::answer(request, &self.network))
            .await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Result<Response<RunPodSandboxResponse>, Status> {
        door::pass("RunPodSandbox", request, |request| run_pod_sandbox::answer(request, &self.pods, &self.host)).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Result<Response<StopPodSandboxResponse>, Status> {
        door::pass("StopPodSandbox", request, |request| stop_pod_sandbox::answer(request, &self.pods)).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Result<Response<RemovePodSandboxResponse>, Status> {
        door::pass("RemovePodSandbox", request, |request| remove_pod_sandbox::answer(request, &self.pods)).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        door::pass("PodSandboxStatus", request, async |request| pod_sandbox_status::answer(request, &self.pods)).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        door::pass("ListPodSandbox", request, async |request| list_pod_sandbox::answer(request, &self.pods)).await
    }

    type StreamPodSandboxesStream = Pieces<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        door::pass("StreamPodSandboxes", request, async |request| stream_pod_sandboxes::answer(request, &self.pods))
            .await
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        door::pass("CreateContainer", request, |request| create_container::answer(request, &self.pods, &self.host))
            .await
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        door::pass("StartContainer", request, |request| start_container::answer(request, &self.pods)).await
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        door::pass("StopContainer", request, |request| stop_container::answer(request, &self.pods)).await
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        door::pass("RemoveContainer", request, |request| remove_container::answer(request, &self.pods)).await
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        door::pass("ContainerStatus", request, async |request| container_status::answer(request, &self.pods)).await
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        door::pass("ListContainers", request, async |request| list_containers::answer(request, &self.pods)).await
    }

    type StreamContainersStream = Pieces<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        door::pass("StreamContainers", request, async |request| stream_containers::answer(request, &self.pods)).await
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Result<Response<ExecSyncResponse>, Status> {
        door::pass("ExecSync", request, |request| exec_sync::answer(request, &self.pods)).await
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Result<Response<ReopenContainerLogResponse>, Status> {
        door::pass("ReopenContainerLog", request, |request| reopen_container_log::answer(request, &self.pods)).await
    }

    // Not built from here on.

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Result<Response<UpdateContainerResourcesResponse>, Status> {
        unbuilt::refuse("UpdateContainerResources", request).await
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Response<ExecResponse>, Status> {
        unbuilt::refuse("Exec", request).await
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<AttachResponse>, Status> {
        unbuilt::refuse("Attach", request).await
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Result<Response<PortForwardResponse>, Status> {
        unbuilt::refuse("PortForward", request).await
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Result<Response<ContainerStatsResponse>, Status> {
        unbuilt::refuse("ContainerStats", request).await
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Result<Response<ListContainerStatsResponse>, Status> {
        unbuilt::refuse("ListContainerStats", request).await
    }

    type StreamContainerStatsStream = Pieces<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        unbuilt::refuse("StreamContainerStats", request).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Result<Response<PodSandboxStatsResponse>, Status> {
        unbuilt::refuse("PodSandboxStats", request).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Result<Response<ListPodSandboxStatsResponse>, Status> {
        unbuilt::refuse("ListPodSandboxStats", request).await
    }

    type StreamPodSandboxStatsStream = Pieces<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        unbuilt::refuse("StreamPodSandboxStats", request).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Result<Response<CheckpointContainerResponse>, Status> {
        unbuilt::refuse("CheckpointContainer", request).await
    }

    async fn checkpoint_pod(
        &self,
        request: Request<CheckpointPodRequest>,
    ) -> Result<Response<CheckpointPodResponse>, Status> {
        unbuilt::refuse("CheckpointPod", request).await
    }

    async fn restore_pod(&self, request: Request<RestorePodRequest>) -> Result<Response<RestorePodResponse>, Status> {
        unbuilt::refuse("RestorePod", request).await
    }

    type GetContainerEventsStream = Pieces<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        unbuilt::refuse("GetContainerEvents", request).await
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<ListMetricDescriptorsRequest>,
    ) -> Result<Response<ListMetricDescriptorsResponse>, Status> {
        unbuilt::refuse("ListMetricDescriptors", request).await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<ListPodSandboxMetricsRequest>,
    ) -> Result<Response<ListPodSandboxMetricsResponse>, Status> {
        unbuilt::refuse("ListPodSandboxMetrics", request).await
    }

    type StreamPodSandboxMetricsStream = Pieces<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        unbuilt::refuse("StreamPodSandboxMetrics", request).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<UpdatePodSandboxResourcesResponse>, Status> {
        unbuilt::refuse("UpdatePodSandboxResources", request).await
    }
}
