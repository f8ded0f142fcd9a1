//! An archive on its way in: given in chunks on one side, read as a stream on the other. A few chunks at most are
//! between.

use std::io::{self, Read};

use tokio::sync::mpsc;

/// Chunks that wait to be read.
const WAITING: usize = 4;

/// The side that gives. Dropped without [`Feed::end`], the archive is torn and reading it fails.
#[derive(Debug)]
pub(crate) struct Feed(mpsc::Sender<Option<Vec<u8>>>);

/// The side that reads, on a thread that may wait.
#[derive(Debug)]
pub(crate) struct Chunks {
    coming: mpsc::Receiver<Option<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

/// Both sides.
pub(crate) fn chunks() -> (Feed, Chunks) {
    let (give, coming) = mpsc::channel(WAITING);
    (Feed(give), Chunks { coming, chunk: Vec::new(), at: 0, ended: false })
}

impl Feed {
    /// Gives a chunk; false when nobody reads any more.
    pub(crate) async fn give(&self, chunk: Vec<u8>) -> bool {
        self.0.send(Some(chunk)).await.is_ok()
    }

    /// Says that this was all.
    pub(crate) async fn end(self) {
        let _ = self.0.send(None).await;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            match self.coming.blocking_recv() {
                Some(Some(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its sender went away")),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_given_is_read_and_a_torn_end_is_an_error() {
        for whole in [true, false] {
            let (feed, mut chunks) = chunks();
            let reader = tokio::task::spawn_blocking(move || {
                let mut read = Vec::new();
                chunks.read_to_end(&mut read).map(|_| read)
            });
            for n in 0..20 {
                assert!(feed.give(vec![n; usize::from(n)]).await);
            }
            if whole {
                feed.end().await;
                let expected: Vec<u8> = (0..20).flat_map(|n| vec![n; usize::from(n)]).collect();
                assert_eq!(reader.await.unwrap().unwrap(), expected);
            } else {
                drop(feed);
                assert_eq!(reader.await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
        let (feed, chunks) = chunks();
        drop(chunks);
        assert!(!feed.give(vec![1]).await);
    }
}
