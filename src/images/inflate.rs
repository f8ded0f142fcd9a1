//! A layer's bytes as they were before compression, whatever compressed them.

use std::io::{self, BufRead, BufReader, Read};

use crate::Fault;

/// Memory that a zstd frame may ask for, as a power of two: 8 MiB, which all levels but the three highest keep within.
const COMMON: u32 = 23;
/// Most that one may ask for at all: 128 MiB, the most that tools read unless they are told.
const WIDE: u32 = 27;
/// What zstd answers for a frame that asks for more than it may.
const WINDOW_TOO_LARGE: usize = 16_usize.wrapping_neg();
/// Bytes read from the blob at a time.
const CHUNK: usize = 256 << 10;

/// How much of what came before a stream's inflating may look back on: all of that is memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// What nearly every stream needs. One that needs more is [`Fault::Window`].
    Common,
    /// As much as is allowed at all.
    Wide,
}

/// Opens a stream that is gzip (of any number of members), zstd (of any number of frames) or plain. Told apart by the
/// first bytes: media types are often wrong about it.
pub(crate) fn inflate<'a>(compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    inflate_within(Window::Wide, compressed)
}

/// The same with a bound on its memory.
pub(crate) fn inflate_within<'a>(window: Window, compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut compressed = BufReader::with_capacity(CHUNK, compressed);
    let start = compressed.fill_buf()?;
    match start {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(compressed))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
            decoder.window_log_max(if window == Window::Wide { WIDE } else { COMMON })?;
            Ok(Box::new(Frames { decoder, window }))
        }
        _ => Ok(Box::new(compressed)),
    }
}

/// A stream of zstd frames.
struct Frames<R: BufRead> {
    decoder: zstd::stream::read::Decoder<'static, R>,
    window: Window,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let too_wide = |error: &io::Error| {
            self.window == Window::Common && error.to_string() == zstd::zstd_safe::get_error_name(WINDOW_TOO_LARGE)
        };
        self.decoder
            .read(buffer)
            .map_err(|error| if too_wide(&error) { io::Error::other(Fault::Window) } else { error })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A frame that asks for so much memory, as a power of two.
    fn frame_of_window(log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(b"little").unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn who_asks_for_much_memory_is_told_apart_from_who_asks_for_too_much() {
        let within = |window, log| {
            let mut out = Vec::new();
            let read = inflate_within(window, &frame_of_window(log)[..]).and_then(|mut s| s.read_to_end(&mut out));
            read.map(|_| out).map_err(|error| error.downcast::<Fault>())
        };
        assert_eq!(within(Window::Common, COMMON).unwrap(), b"little");
        assert!(matches!(within(Window::Common, COMMON + 1), Err(Ok(Fault::Window))));
        assert_eq!(within(Window::Wide, WIDE).unwrap(), b"little");
        assert!(matches!(within(Window::Wide, WIDE + 1), Err(Err(_))));
    }

    fn whole(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        inflate(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn gzip_zstd_and_plain_streams_come_out_the_same() {
        let plain = vec![7; 100_000];
        let frame = zstd::encode_all(&plain[..50_000], 3).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let members = [gzip(&plain[..50_000]), gzip(b""), gzip(&plain[50_000..])].concat();
        for stream in [
            plain.clone(),
            gzip(&plain),
            members,
            [frame.clone(), frame.clone()].concat(),
            [skippable.clone(), frame.clone(), skippable, frame].concat(),
        ] {
            assert_eq!(whole(&stream).unwrap(), plain);
        }
        assert_eq!(whole(b"").unwrap(), b"");
    }

    #[test]
    fn a_torn_or_spoiled_stream_is_an_error() {
        let mut gz = gzip(&[1, 2, 3].repeat(1000));
        assert!(whole(&gz[..gz.len() - 4]).is_err());
        gz.extend_from_slice(b"garbage");
        assert!(whole(&gz).is_err());
        let zst = zstd::encode_all(&[5; 5000][..], 3).unwrap();
        assert!(whole(&zst[..zst.len() - 2]).is_err());
    }
}
