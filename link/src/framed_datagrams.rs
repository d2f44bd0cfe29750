//! Datagrams as a stream of bytes, in the form that azbridge gives them inside a rendezvous.
//!
//! ```text
//! | length: u16 big endian | datagram |      one read, and so one message, each
//!            2               0 to MAX_DATAGRAM
//! ```
//!
//! A length may be up to 65,535; a datagram of more than [`MAX_DATAGRAM`] bytes is read to its end and dropped, as one of a
//! socket would be.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smol::io::{AsyncRead, AsyncWrite};
use umbilical_mux::MAX_DATAGRAM;

use crate::datagrams::Datagrams;

/// Bytes before each datagram.
const LENGTH_BYTES: usize = 2;

/// Memory of one, in bytes: a datagram until all of it has come.
pub const BUFFER_BYTES: usize = LENGTH_BYTES + MAX_DATAGRAM;

/// A far end of datagrams that is read and written as bytes.
pub(crate) struct FramedDatagrams {
    far: Box<dyn Datagrams>,
    /// What has come of the length and the datagram behind it, as far as it is kept.
    partial: Box<[u8]>,
    filled: usize,
    /// Bytes to skip of a datagram that is too long.
    skip: usize,
    /// The writer will write no more: nobody reads any more either.
    closed: bool,
}

impl FramedDatagrams {
    pub(crate) fn new(far: Box<dyn Datagrams>) -> Self {
        Self { far, partial: vec![0; BUFFER_BYTES].into_boxed_slice(), filled: 0, skip: 0, closed: false }
    }

    /// Takes bytes of the stream, at least one of one or more; how many.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.skip > 0 {
            let count = self.skip.min(bytes.len());
            self.skip -= count;
            return Ok(count);
        }
        let wanted = self.wanted();
        let count = (wanted - self.filled).min(bytes.len());
        self.partial[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        if self.filled < wanted {
            return Ok(count);
        }
        match self.wanted() - LENGTH_BYTES {
            length if length > MAX_DATAGRAM => {
                self.far.refuse(length);
                (self.filled, self.skip) = (0, length);
            }
            length if self.filled == LENGTH_BYTES + length => {
                self.far.send(&self.partial[LENGTH_BYTES..self.filled])?;
                self.filled = 0;
            }
            // the length alone has come
            _ => {}
        }
        Ok(count)
    }

    /// Bytes of length and datagram, as far as they are known.
    fn wanted(&self) -> usize {
        match self.filled {
            0..LENGTH_BYTES => LENGTH_BYTES,
            _ => LENGTH_BYTES + usize::from(u16::from_be_bytes([self.partial[0], self.partial[1]])),
        }
    }
}

impl AsyncRead for FramedDatagrams {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Ok(0));
        }
        let Some((length_bytes, room)) = buffer.split_first_chunk_mut::<LENGTH_BYTES>() else {
            return Poll::Ready(Err(ErrorKind::InvalidInput.into()));
        };
        let most = room.len().min(MAX_DATAGRAM);
        let Some(length) = ready!(self.far.poll_receive(cx, &mut room[..most]))? else {
            self.closed = true;
            return Poll::Ready(Ok(0));
        };
        *length_bytes = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        Poll::Ready(Ok(LENGTH_BYTES + length))
    }
}

impl AsyncWrite for FramedDatagrams {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while taken < bytes.len() {
            taken += self.take(&bytes[taken..])?;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use smol::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Far(Arc<Mutex<Seen>>);

    #[derive(Default)]
    struct Seen {
        to_receive: VecDeque<Vec<u8>>,
        sent: Vec<Vec<u8>>,
        refused: Vec<usize>,
    }

    impl Datagrams for Far {
        fn poll_receive(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<usize>>> {
            let next = self.0.lock().unwrap().to_receive.pop_front();
            Poll::Ready(Ok(next.map(|datagram| {
                buffer[..datagram.len()].copy_from_slice(&datagram);
                datagram.len()
            })))
        }

        fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().sent.push(datagram.to_vec());
            Ok(())
        }

        fn refuse(&mut self, length: usize) {
            self.0.lock().unwrap().refused.push(length);
        }
    }

    fn framed(datagram: &[u8]) -> Vec<u8> {
        let length = u16::try_from(datagram.len()).unwrap();
        [&length.to_be_bytes()[..], datagram].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn borders_are_those_of_the_datagrams_whatever_the_pieces(
            lengths in proptest::collection::vec(prop_oneof![0..4_usize, 100..2000_usize, 16_300..16_330_usize, 65_530..=65_535_usize], 1..12),
            pieces in proptest::collection::vec(1..20_000_usize, 1..50),
        ) {
            let far = Far::default();
            let mut stream = FramedDatagrams::new(Box::new(far.clone()));
            let datagrams: Vec<Vec<u8>> = lengths.iter().map(|length| vec![u8::try_from(length % 251).unwrap(); *length]).collect();
            let bytes: Vec<u8> = datagrams.iter().flat_map(|datagram| framed(datagram)).collect();
            let (mut rest, mut sizes) = (&bytes[..], pieces.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                smol::block_on(stream.write_all(piece)).unwrap();
                rest = after;
            }
            let seen = far.0.lock().unwrap();
            let (whole, too_long): (Vec<_>, Vec<_>) = datagrams.into_iter().partition(|datagram| datagram.len() <= MAX_DATAGRAM);
            prop_assert!(seen.sent == whole);
            prop_assert_eq!(&seen.refused, &too_long.iter().map(Vec::len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_read_is_one_datagram_and_the_last_one_is_the_end() {
        let far = Far::default();
        let datagrams = [b"".to_vec(), b"x".to_vec(), vec![7; MAX_DATAGRAM]];
        far.0.lock().unwrap().to_receive.extend(datagrams.iter().cloned());
        let mut stream = FramedDatagrams::new(Box::new(far));
        let mut buffer = vec![0; 65_536];
        for datagram in datagrams {
            let count = smol::block_on(stream.read(&mut buffer)).unwrap();
            assert_eq!(buffer[..count], framed(&datagram));
        }
        assert_eq!(smol::block_on(stream.read(&mut buffer)).unwrap(), 0);
    }

    #[test]
    fn who_has_said_all_hears_no_more() {
        let far = Far::default();
        far.0.lock().unwrap().to_receive.push_back(b"late".to_vec());
        let mut stream = FramedDatagrams::new(Box::new(far));
        smol::block_on(stream.close()).unwrap();
        assert_eq!(smol::block_on(stream.read(&mut [0; 16])).unwrap(), 0);
    }
}
