//! The door that every call passes: one span with the image it is about, and one line when it ends.
//!
//! A call with a stream of news is a task. It ends with the stream: whoever leaves cancels what was begun for him.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Response, Status};
use tracing::{Instrument, Span, info, info_span, warn};

use crate::{error::Error, status};

/// News that may wait for a client that reads slowly. The largest is a chunk of an archive.
const WAITING: usize = 4;
/// Longest name in a log line, characters.
const NOTED: usize = 128;

/// Lets a call in that is answered at once.
pub(crate) async fn pass<A>(
    call: &'static str,
    image: &str,
    act: impl Future<Output = Result<A, Error>>,
) -> Result<Response<A>, Status> {
    let (mut visit, span) = Visit::begin(call, image);
    async {
        let outcome = act.await;
        visit.end(outcome.as_ref().err());
        outcome.map(Response::new).map_err(|error| status::status(&error))
    }
    .instrument(span)
    .await
}

/// Lets a call in that tells of itself as it goes on.
pub(crate) fn begin<N, F>(call: &'static str, image: &str, act: impl FnOnce(Teller<N>) -> F) -> Response<News<N>>
where
    N: Send + 'static,
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (mut visit, span) = Visit::begin(call, image);
    let (tell, news) = mpsc::channel(WAITING);
    let teller = Teller { tell: tell.clone() };
    let act = act(teller);
    let task = async move {
        let outcome = act.await;
        visit.end(outcome.as_ref().err());
        if let Err(error) = outcome {
            // The client may be gone: then nobody needs to know.
            let _ = tell.send(Err(status::status(&error))).await;
        }
    };
    Response::new(News { news, _task: AbortOnDropHandle::new(tokio::spawn(task.instrument(span))) })
}

/// Tells news to the client.
#[derive(Debug)]
pub(crate) struct Teller<N> {
    tell: mpsc::Sender<Result<N, Status>>,
}

impl<N> Teller<N> {
    /// Tells something that must arrive; waits while the client reads slowly.
    pub(crate) async fn tell(&self, news: N) -> Result<(), Error> {
        self.tell.send(Ok(news)).await.map_err(|_| Error::ClientGone)
    }

    /// Tells something that will soon be old: left out while the client has enough to read.
    pub(crate) fn mention(&self, news: N) {
        let _ = self.tell.try_send(Ok(news));
    }
}

/// The news of a call, as its client reads them. Dropped, it cancels the call.
#[derive(Debug)]
pub struct News<N> {
    news: mpsc::Receiver<Result<N, Status>>,
    _task: AbortOnDropHandle<()>,
}

impl<N> Stream for News<N> {
    type Item = Result<N, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.news.poll_recv(context)
    }
}

/// One call from its arrival to its end, however it ends.
struct Visit {
    call: &'static str,
    arrived: Instant,
    ended: bool,
    span: Span,
}

impl Visit {
    fn begin(call: &'static str, image: &str) -> (Self, Span) {
        let image: String = image.chars().take(NOTED).collect();
        let span = info_span!("operator", call, image);
        (Self { call, arrived: Instant::now(), ended: false, span: span.clone() }, span)
    }

    fn end(&mut self, error: Option<&Error>) {
        self.ended = true;
        let took = self.arrived.elapsed();
        let Some(error) = error else { return info!(?took, "{} done", self.call) };
        let status = status::status(error);
        let code = status.code();
        match code {
            Code::Internal | Code::ResourceExhausted => {
                warn!(?took, ?code, "{} failed: {}", self.call, status.message());
            }
            _ => info!(?took, ?code, "{} failed: {}", self.call, status.message()),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.ended {
            let took = self.arrived.elapsed();
            self.span.in_scope(|| info!(?took, "{} given up by its client", self.call));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn whoever_leaves_cancels_what_was_begun() {
        struct Alive(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Alive {
            fn drop(&mut self) {
                let _ = self.0.take().map(|gone| gone.send(()));
            }
        }
        let (gone, has_gone) = tokio::sync::oneshot::channel();
        let alive = Alive(Some(gone));
        let mut news = begin("Test", "x", move |teller| async move {
            let _alive = alive;
            teller.tell(1).await?;
            std::future::pending().await
        })
        .into_inner();
        assert_eq!(news.next().await.unwrap().unwrap(), 1);
        drop(news);
        tokio::time::timeout(Duration::from_secs(20), has_gone).await.expect("the task is gone").unwrap();
    }

    #[tokio::test]
    async fn what_must_arrive_waits_and_what_will_be_old_does_not() {
        let mut news = begin("Test", "", |teller| async move {
            for n in 0..1000 {
                teller.mention(n);
            }
            teller.tell(1000).await?;
            Err(Error::Invalid { field: "name", want: "another" })
        })
        .into_inner();
        let mut told = Vec::new();
        let failed = loop {
            match news.next().await.expect("the error comes last") {
                Ok(n) => told.push(n),
                Err(status) => break status,
            }
        };
        assert_eq!((told.len(), told.last()), (WAITING + 1, Some(&1000)));
        assert_eq!(failed.code(), Code::InvalidArgument);
        assert!(news.next().await.is_none());
    }
}
