//! Lists in pieces: each message of a stream is as large as gRPC likes it, however many elements that makes.

use tonic::Status;

/// Most encoded bytes of elements in one message: what every gRPC library takes without being asked.
const LARGEST: usize = 4 << 20;
/// Bytes around an element in a message: its tag, and its length at its longest.
const FRAMING: usize = 6;

/// A stream that has its end already.
pub(crate) type Pieces<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

/// Each element exactly once, no message empty; an element too large for a message is alone in one. `bytes` tells how
/// long one is, encoded.
pub(crate) fn pieces<E, T>(elements: Vec<E>, bytes: impl Fn(&E) -> usize, message: impl Fn(Vec<E>) -> T) -> Pieces<T> {
    let mut messages = Vec::new();
    let (mut piece, mut size) = (Vec::new(), 0);
    for element in elements {
        let more = bytes(&element) + FRAMING;
        if size + more > LARGEST && !piece.is_empty() {
            messages.push(Ok(message(std::mem::take(&mut piece))));
            size = 0;
        }
        size += more;
        piece.push(element);
    }
    if !piece.is_empty() {
        messages.push(Ok(message(piece)));
    }
    tokio_stream::iter(messages)
}

#[cfg(test)]
mod tests {
    use api::cri::v1;
    use prost::Message;
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_long_list_comes_in_bounded_pieces_and_whole() {
        let large = "x".repeat(100_000);
        let elements: Vec<_> = (0..200)
            .map(|n| v1::Image { id: n.to_string(), repo_tags: vec![large.clone()], ..Default::default() })
            .collect();
        let stream = pieces(elements, Message::encoded_len, |images| v1::StreamImagesResponse { images });
        let messages: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert!(messages.len() > 4);
        assert!(messages.iter().all(|m| m.encoded_len() <= LARGEST && !m.images.is_empty()));
        let ids: Vec<_> = messages.iter().flat_map(|m| &m.images).map(|image| image.id.clone()).collect();
        assert_eq!(ids, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_empty_list_ends_at_once() {
        let message = |images: Vec<v1::Image>| v1::StreamImagesResponse { images };
        let mut stream = pieces(Vec::new(), Message::encoded_len, message);
        assert!(stream.next().await.is_none());
    }
}
