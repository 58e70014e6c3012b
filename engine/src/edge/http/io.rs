//! glommio's socket as hyper wants one.

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 4096;

/// A socket between glommio and hyper.
pub struct Socket {
    stream: TcpStream,
    /// Where glommio reads to, since hyper's own buffer is not initialized.
    buffer: Box<[u8; READ_BYTES]>,
}

impl Socket {
    /// Takes a stream over.
    pub fn new(stream: TcpStream) -> Socket {
        Socket { stream, buffer: Box::new([0; READ_BYTES]) }
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<Result<()>> {
        let Socket { stream, buffer } = &mut *self;
        let room = out.remaining().min(READ_BYTES);
        let count = ready!(Pin::new(stream).poll_read(cx, &mut buffer[..room]))?;
        out.put_slice(&buffer[..count]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
