// SPDX-License-Identifier: Apache-2.0
//! The host's end of the agent's ttrpc connection: blocking calls from any number of threads.
//!
//! The ttrpc crate's own blocking client wakes up a hundred times a second to look at its socket;
//! this one sleeps in `read`. The frames are ttrpc's: a ten-byte header (length, stream id, type,
//! flags), then a `Request` or a `Response`. One thread reads and hands each answer to its caller;
//! callers write for themselves, under a lock. The guest is hostile: an answer is bounded before
//! it is read, one that nobody waits for is dropped, and a connection that takes nothing is ended.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protobuf::{Message, MessageField};
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Request, Response, Status};

use crate::agent;

const SERVICE: &str = "walnut.agent.v1.Agent";
/// For one frame to be taken: the socket holds hundreds of them when nobody reads.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the agent refused {method}: {message}")]
    Refused {
        method: &'static str,
        code: i32,
        message: String,
    },
    #[error("the agent did not answer {method} within {} ms", timeout.as_millis())]
    Timeout {
        method: &'static str,
        timeout: Duration,
    },
    #[error("the connection to the agent ended during {method}")]
    Closed { method: &'static str },
    #[error("send {method} to the agent")]
    Send {
        method: &'static str,
        source: io::Error,
    },
    #[error("{method} is {len} bytes long, more than {MESSAGE_LENGTH_MAX}")]
    TooLong { method: &'static str, len: usize },
    #[error("the agent's answer to {method} is malformed")]
    Malformed {
        method: &'static str,
        source: protobuf::Error,
    },
}

/// A connection to one agent; a clone is another handle on the same one. The connection ends with
/// the last handle.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
    timeout: Option<Duration>,
}

#[derive(Debug)]
struct Connection {
    writer: Mutex<Writer>,
    pending: Arc<Mutex<Pending>>,
}

#[derive(Debug)]
struct Writer {
    stream: UnixStream,
    timeout: Duration,
    next_id: u32,
}

/// Who waits for which answer. Closed once nothing more can come.
#[derive(Debug, Default)]
struct Pending {
    callers: HashMap<u32, SyncSender<Response>>,
    closed: bool,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $method:literal: $request:ident -> $response:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub fn $name(
                    &self,
                    request: &agent::$request,
                ) -> Result<agent::$response, CallError> {
                    self.call($method, request)
                }
            )*
        }
    };
}

methods! {
    mount = "Mount": MountRequest -> Empty;
    create = "Create": CreateRequest -> CreateResponse;
    start = "Start": StartRequest -> StartResponse;
    exec = "Exec": ExecRequest -> CreateResponse;
    kill = "Kill": KillRequest -> Empty;
    wait = "Wait": WaitRequest -> WaitResponse;
    resize_pty = "ResizePty": ResizePtyRequest -> Empty;
    close_io = "CloseIO": CloseIORequest -> Empty;
    delete = "Delete": DeleteRequest -> Empty;
    pause = "Pause": ContainerRequest -> Empty;
    resume = "Resume": ContainerRequest -> Empty;
    pids = "Pids": ContainerRequest -> PidsResponse;
    processes = "Processes": ContainerRequest -> ProcessesResponse;
    stats = "Stats": ContainerRequest -> StatsResponse;
    update = "Update": UpdateRequest -> Empty;
    wake = "Wake": WakeRequest -> Empty;
    interfaces = "Interfaces": InterfacesRequest -> Empty;
    adopt = "Adopt": AdoptRequest -> Empty;
    connections = "Connections": ContainerRequest -> ConnectionsResponse;
    time = "Time": TimeRequest -> Empty;
    entropy = "Entropy": EntropyRequest -> Empty;
    sync = "Sync": Empty -> Empty;
    shutdown = "Shutdown": ShutdownRequest -> Empty;
}

impl Client {
    /// Takes over a connection to the agent's [`RPC_PORT`](crate::RPC_PORT).
    ///
    /// # Errors
    /// The stream can't be duplicated, or the reading thread not be made.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Self::writing_within(stream, WRITE_TIMEOUT)
    }

    fn writing_within(stream: UnixStream, timeout: Duration) -> io::Result<Self> {
        stream.set_write_timeout(Some(timeout))?;
        let pending = Arc::new(Mutex::new(Pending::default()));
        let reader = stream.try_clone()?;
        let readers_pending = Arc::clone(&pending);
        thread::Builder::new()
            .name("agent-answers".into())
            .spawn(move || {
                read_answers(reader, &readers_pending);
            })?;
        let writer = Mutex::new(Writer {
            stream,
            timeout,
            next_id: 1,
        });
        Ok(Self {
            connection: Arc::new(Connection { writer, pending }),
            timeout: None,
        })
    }

    /// A handle whose calls give up after `timeout`.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        Self {
            connection: Arc::clone(&self.connection),
            timeout: Some(timeout),
        }
    }

    fn call<Q: Message, A: Message>(
        &self,
        method: &'static str,
        request: &Q,
    ) -> Result<A, CallError> {
        let malformed = |source| CallError::Malformed { method, source };
        let envelope = Request {
            service: SERVICE.into(),
            method: method.into(),
            payload: request.write_to_bytes().map_err(malformed)?,
            ..Request::default()
        };
        let body = envelope.write_to_bytes().map_err(malformed)?;
        let len = match u32::try_from(body.len()) {
            Ok(len) if body.len() <= MESSAGE_LENGTH_MAX => len,
            _ => {
                return Err(CallError::TooLong {
                    method,
                    len: body.len(),
                });
            }
        };
        let (tell, told) = mpsc::sync_channel(1);
        let id = self.connection.send(method, len, &body, tell)?;
        let answer = match self.timeout {
            None => told.recv().map_err(|_| CallError::Closed { method }),
            Some(timeout) => told.recv_timeout(timeout).map_err(|e| match e {
                RecvTimeoutError::Timeout => CallError::Timeout { method, timeout },
                RecvTimeoutError::Disconnected => CallError::Closed { method },
            }),
        };
        lock(&self.connection.pending).callers.remove(&id);
        let answer = answer?;
        if let Some(Status { code, message, .. }) = answer.status.into_option()
            && code.value() != Code::OK as i32
        {
            return Err(CallError::Refused {
                method,
                code: code.value(),
                message,
            });
        }
        A::parse_from_bytes(&answer.payload).map_err(malformed)
    }
}

impl Connection {
    fn send(
        &self,
        method: &'static str,
        len: u32,
        body: &[u8],
        tell: SyncSender<Response>,
    ) -> Result<u32, CallError> {
        let mut writer = lock(&self.writer);
        let id = writer.next_id;
        // A client's stream ids are odd (ttrpc's PROTOCOL.md).
        writer.next_id = id.wrapping_add(2);
        {
            let mut pending = lock(&self.pending);
            if pending.closed {
                return Err(CallError::Closed { method });
            }
            pending.callers.insert(id, tell);
        }
        let mut frame: Vec<u8> = MessageHeader::new_request(id, len).into();
        frame.extend_from_slice(body);
        writer.write(&frame).map_err(|source| {
            // The frame may be cut: nothing that follows would make sense.
            let _ = writer.stream.shutdown(Shutdown::Both);
            lock(&self.pending).close();
            CallError::Send { method, source }
        })?;
        Ok(id)
    }
}

impl Writer {
    /// The whole frame, or an error.
    fn write(&mut self, mut frame: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.timeout;
        while !frame.is_empty() {
            match self.stream.write(frame) {
                Ok(taken) => frame = &frame[taken..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // socket(7): so the stream's timeout is told.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(self.too_late()),
                Err(e) => return Err(e),
            }
            if !frame.is_empty() && Instant::now() >= deadline {
                return Err(self.too_late());
            }
        }
        Ok(())
    }

    fn too_late(&self) -> io::Error {
        let after = self.timeout.as_millis();
        let said = format!("nobody took it within {after} ms");
        io::Error::new(io::ErrorKind::TimedOut, said)
    }
}

impl Pending {
    fn close(&mut self) {
        self.closed = true;
        // Dropping their senders tells the callers.
        self.callers.clear();
    }
}

impl Drop for Connection {
    /// The reading thread holds a descriptor of its own: only a shutdown wakes it.
    fn drop(&mut self) {
        let _ = lock(&self.writer).stream.shutdown(Shutdown::Both);
    }
}

fn read_answers(mut from: UnixStream, pending: &Mutex<Pending>) {
    while let Ok((id, response)) = read_answer(&mut from) {
        let caller = lock(pending).callers.remove(&id);
        if let Some(caller) = caller {
            // The caller may have given up meanwhile.
            let _ = caller.try_send(response);
        }
    }
    lock(pending).close();
}

fn read_answer(from: &mut impl Read) -> io::Result<(u32, Response)> {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    from.read_exact(&mut header)?;
    let header = MessageHeader::from(header);
    let len = header.length as usize;
    if len > MESSAGE_LENGTH_MAX || header.type_ != MESSAGE_TYPE_RESPONSE {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body)?;
    // A caller must not wait for ever because its answer made no sense.
    let response = Response::parse_from_bytes(&body).unwrap_or_else(|e| Response {
        status: MessageField::some(ttrpc::get_status(Code::DATA_LOSS, e)),
        ..Response::default()
    });
    Ok((header.stream_id, response))
}

/// A panic elsewhere leaves nothing half-done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
