//! What a keeper is asked, and what it answers at once: each command is accepted, joined or refused here.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use model::{ContainerId, ContainerPlan, Phase, PodId, PodPlan};

use super::{Command, Finished, Goal, Keeper, Reply, answer};
use crate::{
    container::{Container, Making, Starting},
    create,
    error::Error,
    exec::{self, ExecOutput},
    index, log_file,
    record::{Made, PodStage},
    run,
};

/// Why a name that is taken cannot be shared, when the one who has it is not what was asked for.
const OTHER_REQUEST: &str = "was made from a different request";

impl Keeper {
    pub(super) fn take(&mut self, command: Command) {
        match command {
            Command::Join { plan, reply } => self.join(&plan, reply),
            Command::Stop { reply } => {
                self.stop_waiters.push(reply);
                self.raise(Goal::Stop);
            }
            Command::Remove { reply } => {
                self.remove_waiters.push(reply);
                self.raise(Goal::Remove);
            }
            Command::Create { plan, reply } => self.create(plan, reply),
            Command::Start { container, reply } => self.start(&container, reply),
            Command::StopContainer { container, grace, reply } => self.stop_container(&container, grace, reply),
            Command::RemoveContainer { container, reply } => match self.containers.get_mut(&container) {
                Some(kept) => kept.removing.get_or_insert_default().push(reply),
                // Removing what is gone is success (CRI: RemoveContainer is idempotent).
                None => answer(reply, Ok(())),
            },
            Command::Exec { container, argv, timeout, reply } => self.exec(&container, argv, timeout, reply),
            Command::ReopenLog { container, reply } => self.reopen_log(&container, reply),
        }
    }

    fn raise(&mut self, goal: Goal) {
        self.goal = self.goal.max(goal);
    }

    fn join(&mut self, plan: &PodPlan, reply: Reply<PodId>) {
        if plan != &*self.record.plan {
            let (name, id) = (plan.metadata.to_string(), self.record.id.to_string());
            let taken = Error::NameTaken { name, id, why: OTHER_REQUEST.to_owned() };
            answer(reply, Err(taken));
        } else if self.goal > Goal::Keep || self.record.stage > PodStage::Ready {
            answer(reply, Err(self.wrong_phase("ready")));
        } else if self.record.stage == PodStage::Ready {
            answer(reply, Ok(self.record.id.clone()));
        } else {
            self.joiners.push(reply);
        }
    }

    fn create(&mut self, plan: Arc<ContainerPlan>, reply: Reply<ContainerId>) {
        let sandbox = match &self.sandbox {
            Some(sandbox) if self.is_ready() => sandbox.clone(),
            _ => return answer(reply, Err(self.wrong_phase("ready"))),
        };
        let same_name = self.containers.values_mut().find(|kept| kept.plan.metadata == plan.metadata);
        if let Some(kept) = same_name {
            let same_plan = *kept.plan == *plan;
            let why = if same_plan { format!("is {}", kept.phase_name()) } else { OTHER_REQUEST.to_owned() };
            let same = same_plan && kept.removing.is_none();
            match &mut kept.making {
                Making::Going(waiters) if same => waiters.push(reply),
                Making::Done { phase: Phase::Created, .. } if same => answer(reply, Ok(kept.id.clone())),
                making => {
                    if matches!(making, Making::Failed) {
                        // Nobody can name what is left of it: whoever wants its name has it removed once more.
                        kept.removing.get_or_insert_default();
                    }
                    let name = plan.metadata.to_string();
                    answer(reply, Err(Error::NameTaken { name, id: kept.id.to_string(), why }));
                }
            }
            return;
        }
        let target = match &plan.security.pid {
            model::ContainerPid::Target(target) => match index::container(&self.containers, target) {
                Ok((id, kept)) => Some(create::Target { id: id.clone(), pid: kept.pid() }),
                // The launch plan refuses it, in the request's own words.
                Err(Error::NoContainer { .. }) => None,
                Err(error) => return answer(reply, Err(error)),
            },
            _ => None,
        };
        let id = ContainerId::from_random(self.home.random());
        let created_at = SystemTime::now();
        let kept = Container::new(id.clone(), plan.clone(), created_at, Making::Going(vec![reply]));
        let request = create::Request { id: id.clone(), plan, created_at, target, given_up: kept.give_up.clone() };
        self.containers.insert(id.clone(), kept);
        let home = self.home.clone();
        self.jobs.spawn(async move {
            let result = create::create(home, sandbox, request).await;
            Finished::Created { container: id, result }
        });
    }

    fn start(&mut self, id: &ContainerId, reply: Reply<()>) {
        let ready = self.is_ready();
        let wrong_pod = self.wrong_phase("ready");
        let Some(kept) = self.containers.get_mut(id) else {
            return answer(reply, Err(Error::NoContainer { id: id.to_string() }));
        };
        match &kept.making {
            Making::Done { phase: Phase::Created, .. } if kept.removing.is_some() => {}
            Making::Done { phase: Phase::Created, .. } if !ready => return answer(reply, Err(wrong_pod)),
            Making::Done { phase: Phase::Created, .. } => {
                let starting = kept.starting.get_or_insert_with(|| Starting { waiters: Vec::new(), asked: false });
                return starting.waiters.push(reply);
            }
            _ => {}
        }
        let phase = kept.phase_name();
        answer(reply, Err(Error::WrongPhase { what: "container", id: id.to_string(), phase, wanted: "created" }));
    }

    fn stop_container(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        match self.containers.get_mut(id) {
            Some(kept)
                if matches!(kept.phase(), Some(Phase::Running { .. } | Phase::Unsettled { .. }))
                    || kept.starting.is_some() =>
            {
                kept.stop_within(grace, Instant::now(), Some(reply));
            }
            // What does not run is stopped (CRI: StopContainer is idempotent).
            _ => answer(reply, Ok(())),
        }
    }

    fn exec(&mut self, id: &ContainerId, argv: Vec<Vec<u8>>, timeout: Option<Duration>, reply: Reply<ExecOutput>) {
        match self.running(id) {
            Ok((sandbox, made)) => {
                let (home, id) = (self.home.clone(), id.clone());
                self.jobs.spawn(async move {
                    let mut reply = reply;
                    let limits = exec::Limits { timeout, abandoned: reply.closed() };
                    let outcome = exec::exec_sync(&home, &sandbox, &id, &made, argv, limits).await;
                    answer(reply, outcome);
                    Finished::Answered
                });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn reopen_log(&mut self, id: &ContainerId, reply: Reply<()>) {
        match self.running(id) {
            Ok((sandbox, made)) => {
                let (home, id) = (self.home.clone(), id.clone());
                let Some(plan) = self.containers.get(&id).map(|kept| kept.plan.clone()) else { return };
                self.jobs.spawn(async move {
                    answer(reply, log_file::reopen(&home, &sandbox, &id, &made, &plan).await);
                    Finished::Answered
                });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn running(&self, id: &ContainerId) -> Result<(Arc<run::Sandbox>, Made), Error> {
        let kept = self.containers.get(id).ok_or_else(|| Error::NoContainer { id: id.to_string() })?;
        match (&kept.making, &self.sandbox) {
            (Making::Done { phase: Phase::Running { .. }, made, .. }, Some(sandbox)) => {
                Ok((sandbox.clone(), made.clone()))
            }
            _ => Err(Error::WrongPhase {
                what: "container",
                id: id.to_string(),
                phase: kept.phase_name(),
                wanted: "running",
            }),
        }
    }
}
