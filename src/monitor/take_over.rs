//! The program that takes a monitor's place: reads what it is handed, and goes on ([`crate::hand_over`]).

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    process::exit,
};

use engine::launch::PodPlaces;
use kernel::{descriptor, process::Pid};
use link::{PROTOCOL, wire};
use prost::Message;

use crate::{
    asker::Asker,
    container::Container,
    exec::Exec,
    pod::{self, Pod, PodInit, Ready, SetUp},
    say,
};

/// First word of the command line of the program that goes on; the second is where it finds what it is handed.
pub(crate) const ROLE: &str = "take-over";

/// The same, only to find out whether it could.
pub(crate) const REHEARSAL: &str = "rehearse";

/// Exit code of one that cannot go on.
const NO_WAY: i32 = 71;

/// Exit code of a rehearsal that went well: no other program ends with it by chance.
pub(crate) const REHEARSED: u8 = 73;

/// What cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what} is not there")]
    Missing { what: &'static str },
    #[error("{what}: descriptor {number}: {source}")]
    Descriptor { what: &'static str, number: u32, source: io::Error },
    #[error("{what} {value:?} is none")]
    Wrong { what: &'static str, value: String },
    #[error("written by protocol {theirs}, and this program speaks {PROTOCOL}")]
    Newer { theirs: u32 },
    #[error("read it: {0}")]
    Read(#[from] io::Error),
    #[error("not a message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// A descriptor that has come through exec.
pub(crate) fn take(number: u32, what: &'static str) -> Result<OwnedFd, Error> {
    descriptor::inherited(number).map_err(|source| Error::Descriptor { what, number, source })
}

/// One that need not be there.
pub(crate) fn take_any(number: Option<u32>, what: &'static str) -> Result<Option<OwnedFd>, Error> {
    number.map(|number| take(number, what)).transpose()
}

/// Goes on where the program before has stopped.
pub(crate) fn run(place: &str) -> ! {
    let (mut pod, asker) = match begin(place) {
        Ok(taken) => taken,
        Err(error) => fail(&error),
    };
    if let Err(error) = descriptor::close_all_but(&pod.descriptors()) {
        fail(&error.into());
    }
    pod.done(asker);
    // Whoever ended between the two programs has no signal left to be told by.
    pod.reap();
    match pod.serve() {
        Ok(()) => exit(0),
        Err(error) => fail(&error.into()),
    }
}

/// Tries it and changes nothing.
pub(crate) fn rehearse(place: &str) -> ! {
    match begin(place) {
        Ok(_) => exit(REHEARSED.into()),
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ! {
    say(&format!("take over a monitor: {error}"));
    exit(NO_WAY)
}

fn begin(place: &str) -> Result<(Pod, Asker), Error> {
    let number = place.parse().map_err(|_| Error::Wrong { what: "the descriptor", value: place.to_owned() })?;
    let handed = wire::HandOver::decode(read(take(number, "what is handed over")?)?.as_slice())?;
    if handed.protocol > PROTOCOL {
        return Err(Error::Newer { theirs: handed.protocol });
    }
    let mut pod = pod::bare(&handed.pod_id, &handed.program, take(handed.listener_fd, "the listener")?)?;
    if let Some(places) = &handed.places {
        pod.set_up = SetUp::Done(ready(places)?);
    }
    for container in handed.containers {
        let number = pod.number();
        pod.containers.push(Container::taken(number, container, &pod.epoll)?);
    }
    for exec in handed.execs {
        let number = pod.number();
        let container = pod.position(&exec.container_id).map_or(0, |index| pod.containers[index].number);
        pod.execs.push(Exec::taken(number, container, &exec)?);
    }
    let asker = pod.daemon.resume(&pod.epoll, take(handed.daemon_fd, "the connection")?, handed.request);
    Ok((pod, asker))
}

/// All of a file whose position other processes share.
fn read(file: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(file);
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn ready(places: &wire::HandedPlaces) -> Result<Ready, Error> {
    let init = take_any(places.init_fd, "the pod's init")?.map(|pidfd| PodInit { pid: Pid(places.init_pid), pidfd });
    Ok(Ready {
        places: PodPlaces {
            netns: take_any(places.netns_fd, "the network namespace")?,
            own_pid: take(places.own_pid_fd, "the pid namespace")?,
        },
        records: take(places.records_fd, "the directory of records")?,
        init,
    })
}

impl Pod {
    /// Every descriptor that it owns: the numbers under which they came are nobody's.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let places = match &self.set_up {
            SetUp::Done(ready) => {
                let optional = [ready.places.netns.as_ref(), ready.init.as_ref().map(|init| &init.pidfd)];
                let all = [Some(&ready.places.own_pid), Some(&ready.records)].into_iter().chain(optional);
                all.flatten().map(AsFd::as_fd).collect()
            }
            SetUp::No | SetUp::Failed => Vec::new(),
        };
        let own = [self.listener.as_fd(), self.epoll.as_fd(), self.signals.as_fd()];
        let containers = self.containers.iter().flat_map(Container::descriptors);
        let execs = self.execs.iter().map(Exec::directory);
        own.into_iter().chain(self.daemon.socket()).chain(places).chain(containers).chain(execs).collect()
    }
}
