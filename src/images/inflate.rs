//! A layer's bytes as they were before compression, whatever compressed them.

use std::io::{self, BufRead, BufReader, Read};

/// Most memory that a zstd frame may ask for, as a power of two: 128 MiB, the format's own default.
const ZSTD_WINDOW: u32 = 27;
/// Bytes read from the blob at a time.
const CHUNK: usize = 256 << 10;

/// Opens a stream that is gzip (of any number of members), zstd (of any number of frames) or plain. Told apart by the
/// first bytes: media types are often wrong about it.
pub(crate) fn inflate<'a>(compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut compressed = BufReader::with_capacity(CHUNK, compressed);
    let start = compressed.fill_buf()?;
    match start {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(compressed))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Ok(Box::new(decoder))
        }
        _ => Ok(Box::new(compressed)),
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
