//! What is wanted and not yet true: starts the next job towards it. Looks at the whole state each time, so it can be
//! called at any time and any number of times, and a job that failed or a crash in between needs no memory of its own.

use std::time::{Duration, Instant};

use model::ContainerId;

use super::{Finished, Goal, Keeper, answer};
use crate::{
    container::{Container, Making},
    record::PodStage,
    remove, start,
    step::Step,
    stop::Act,
    stop_pod,
};

impl Keeper {
    /// Starts whatever what is wanted still needs. Safe to call at any time, any number of times.
    pub(super) fn advance(&mut self) {
        if self.gone {
            return;
        }
        self.advance_starts();
        self.advance_containers();
        if self.pod_job {
            return;
        }
        match self.record.stage {
            PodStage::Making => {}
            PodStage::Ready | PodStage::Stopping if self.goal >= Goal::Stop => self.advance_stop(),
            PodStage::Stopped => {
                self.stop_waiters.drain(..).for_each(|reply| answer(reply, Ok(())));
                if self.goal == Goal::Remove {
                    self.advance_remove();
                }
            }
            PodStage::Ready | PodStage::Stopping => {}
        }
    }

    /// Asks the monitor for the starts that it has not been asked for, or whose answers were lost with the connection.
    fn advance_starts(&mut self) {
        let Some(sandbox) = self.sandbox.clone().filter(|_| self.is_connected()) else { return };
        for kept in self.containers.values_mut() {
            let Some(starting) = kept.starting.as_mut().filter(|starting| !starting.asked) else { continue };
            let Making::Done { made, .. } = &kept.making else { continue };
            starting.asked = true;
            let (home, sandbox, id) = (self.home.clone(), sandbox.clone(), kept.id.clone());
            let launch = made.launch.clone();
            self.jobs.spawn(async move {
                let result = home.steps.pass(Step::StartExec, start::start(&home, &sandbox, &id, &launch)).await;
                Finished::Started { container: id, result }
            });
        }
    }

    fn advance_containers(&mut self) {
        let now = Instant::now();
        let is_connected = self.is_connected();
        let mut acts = Vec::new();
        for kept in self.containers.values_mut() {
            if kept.removing.is_some() && kept.is_alive() && matches!(kept.making, Making::Done { .. }) {
                kept.stop_within(Duration::ZERO, now, None);
            }
            match kept.stop().filter(|_| is_connected).map(|stop| stop.act(now)) {
                None | Some(Act::Nothing) => {}
                Some(act) => acts.push((kept.id.clone(), act)),
            }
        }
        for (id, act) in acts {
            self.signal(&id, act);
        }
        let removable: Vec<_> = self
            .containers
            .values_mut()
            .filter(|kept| kept.removing.is_some() && !kept.removal_runs && !kept.is_alive())
            .map(|kept| {
                kept.removal_runs = true;
                let made = match &kept.making {
                    Making::Done { made, .. } => Some(made.clone()),
                    _ => None,
                };
                (kept.id.clone(), made)
            })
            .collect();
        for (id, made) in removable {
            let home = self.home.clone();
            let sandbox = self.sandbox.clone();
            let cgroup = self.record.cgroup.clone();
            self.jobs.spawn(async move {
                let result = remove::container(&home, sandbox.as_deref(), cgroup.as_ref(), &id, made).await;
                Finished::ContainerRemoved { container: id, result }
            });
        }
    }

    fn signal(&mut self, id: &ContainerId, act: Act) {
        let Some(Container { making: Making::Done { made, .. }, .. }) = self.containers.get(id) else { return };
        let Some(sandbox) = self.sandbox.clone() else { return };
        let signal = made.launch.stop_signal;
        let (home, id) = (self.home.clone(), id.clone());
        self.jobs.spawn(async move {
            let polite = (act == Act::Ask).then_some(signal);
            let result = stop_pod::signal(&home, &sandbox.monitor, &id, polite).await;
            Finished::Signalled { container: id, act, result }
        });
    }

    fn advance_stop(&mut self) {
        if self.record.stage == PodStage::Ready {
            self.record.stage = PodStage::Stopping;
            self.save(Step::StopPodIntent);
            self.publish();
        }
        let now = Instant::now();
        let mut alive = false;
        for kept in self.containers.values_mut().filter(|kept| kept.is_alive()) {
            alive = true;
            match kept.making {
                // Whatever grace a container was given by itself ends with its pod.
                Making::Done { .. } => kept.stop_within(Duration::ZERO, now, None),
                // Another runtime may need a minute for it.
                _ => kept.give_up.notify_one(),
            }
        }
        if alive {
            return self.advance_containers();
        }
        self.pod_job = true;
        let (home, record, sandbox) = (self.home.clone(), self.record.clone(), self.sandbox.clone());
        self.jobs
            .spawn(async move { Finished::TornDown(stop_pod::tear_down(&home, &record, sandbox.as_deref()).await) });
    }

    fn advance_remove(&mut self) {
        if !self.containers.is_empty() {
            let mut more = false;
            for kept in self.containers.values_mut() {
                more |= kept.removing.is_none();
                kept.removing.get_or_insert_default();
            }
            if more {
                self.advance_containers();
            }
            return;
        }
        self.pod_job = true;
        let (home, record) = (self.home.clone(), self.record.clone());
        self.jobs.spawn(async move { Finished::Removed(remove::pod(&home, &record).await) });
    }
}
