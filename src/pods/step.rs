//! The steps of every act on a pod or container, by name.

use fault::MadeToFail;
use model::Class;

use crate::error::Error;

fault::steps! {
    /// A step of an act on a pod or container.
    pub enum Step {
        /// Write down that a pod is being made.
        RunIntent = "run.intent",
        /// Make the pod's directory, with hosts, hostname and resolv.conf.
        RunFiles = "run.files",
        /// Make the network namespace.
        RunNetns = "run.netns",
        /// Give it an interface and addresses.
        RunAttach = "run.attach",
        /// Make the pod's cgroup.
        RunCgroup = "run.cgroup",
        /// Have the launcher fork a monitor.
        RunMonitor = "run.monitor",
        /// Have the monitor make the pod's namespaces.
        RunSetUp = "run.set-up",
        /// Write down that the pod is ready.
        RunReady = "run.ready",
        /// Find the image and keep its layers.
        CreateImage = "create.image",
        /// Write down that a container is being made.
        CreateIntent = "create.intent",
        /// Make the writable layer and the overlay.
        CreateRootfs = "create.rootfs",
        /// Make the cgroup, still without limits.
        CreateCgroup = "create.cgroup",
        /// Turn request and image into a launch plan.
        CreatePlan = "create.plan",
        /// Copy the content of the image's volumes.
        CreateVolumes = "create.volumes",
        /// Open the log.
        CreateLog = "create.log",
        /// Limit the cgroup, open every mount source.
        CreatePrepare = "create.prepare",
        /// Have the monitor clone the first process.
        CreateLaunch = "create.launch",
        /// Write down that the container is made.
        CreateDone = "create.done",
        /// Let the first process exec.
        StartExec = "start.exec",
        /// Write down that it runs.
        StartDone = "start.done",
        /// Send the stop signal, or kill.
        StopSignal = "stop.signal",
        /// Write down how a container ended.
        ExitRecord = "exit.record",
        /// Remove a container's cgroup.
        ExitCgroup = "exit.cgroup",
        /// Write down that a pod is stopping.
        StopPodIntent = "stop-pod.intent",
        /// Give back addresses.
        StopPodDetach = "stop-pod.detach",
        /// End the monitor.
        StopPodMonitor = "stop-pod.monitor",
        /// Drop the network namespace.
        StopPodNetns = "stop-pod.netns",
        /// Remove the pod's cgroup.
        StopPodCgroup = "stop-pod.cgroup",
        /// Write down that the pod is stopped.
        StopPodDone = "stop-pod.done",
        /// Tell the monitor to forget a container.
        RemoveForget = "remove.forget",
        /// Delete the writable layer.
        RemoveRootfs = "remove.rootfs",
        /// Delete the container's records.
        RemoveRecord = "remove.record",
        /// Delete the pod's directory.
        RemovePodFiles = "remove-pod.files",
        /// Delete the pod's record.
        RemovePodRecord = "remove-pod.record",
        /// Start a command in a container.
        Exec = "exec.start",
        /// Swap the log file.
        ReopenLog = "reopen-log",
    }
}

/// A step that was made to fail.
#[derive(Debug, thiserror::Error)]
#[error("made to fail")]
struct Injected;

impl From<MadeToFail<Step>> for Error {
    fn from(MadeToFail { step }: MadeToFail<Step>) -> Self {
        Error::at(step, Class::Internal, Injected)
    }
}
