// SPDX-License-Identifier: Apache-2.0
//! The agent's way to the host: vsock, and the thread that takes stream connections.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket,
};
use rustix::net::SocketFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use walnut_protocol::agent_ttrpc::create_agent;
use walnut_protocol::stream::StreamHeader;
use walnut_protocol::ttrpc;

use crate::agent::Agent;
use crate::failure::chain;
use crate::service::Service;

/// How long a connection may take to say which stream it is.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on vsock port {port}")]
    Listen { port: u32, source: nix::Error },
    #[error("connect to vsock port {port} of the host")]
    Connect { port: u32, source: nix::Error },
    #[error("serve")]
    Serve(#[source] ttrpc::Error),
    #[error("make a thread")]
    Thread(#[source] io::Error),
}

/// A listening vsock socket.
///
/// # Errors
/// The machine has no vsock, or the port is taken.
pub fn vsock_listener(port: u32) -> Result<OwnedFd, ListenError> {
    let failed = |source| ListenError::Listen { port, source };
    let fd = vsock_socket().map_err(failed)?;
    let any = VsockAddr::new(libc::VMADDR_CID_ANY, port);
    bind(fd.as_raw_fd(), &any).map_err(failed)?;
    listen(&fd, Backlog::MAXCONN).map_err(failed)?;
    Ok(fd)
}

/// A connection to a port of the host.
///
/// # Errors
/// Nobody listens there.
pub fn vsock_connect(port: u32) -> Result<File, ListenError> {
    let failed = |source| ListenError::Connect { port, source };
    let fd = vsock_socket().map_err(failed)?;
    connect(fd.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port)).map_err(failed)?;
    Ok(File::from(fd))
}

fn vsock_socket() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// Starts to serve `service` on a listening socket, and streams on another.
///
/// # Errors
/// A thread can't be made.
pub fn serve(
    service: Service,
    rpc: OwnedFd,
    streams: OwnedFd,
) -> Result<ttrpc::Server, ListenError> {
    let agent = Arc::clone(&service.agent);
    thread::Builder::new()
        .name("streams".into())
        .spawn(move || accept_streams(&agent, &streams))
        .map_err(ListenError::Thread)?;
    let mut server = ttrpc::Server::new()
        .add_listener(rpc.into_raw_fd())
        .map_err(ListenError::Serve)?
        // A call may block (Wait): a thread is made whenever none is idle.
        .set_thread_count_min(1)
        .set_thread_count_default(2)
        .set_thread_count_max(8)
        .register_service(create_agent(Arc::new(service)));
    server.start().map_err(ListenError::Serve)?;
    Ok(server)
}

fn accept_streams(agent: &Agent, listener: &OwnedFd) {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(connection) => {
                if let Err(error) = attach(agent, connection) {
                    log::warn!("{error}");
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => {
                log::error!("accept a stream: {error}");
                return;
            }
        }
    }
}

/// The host sends the header at once: a connection that doesn't is given up before it holds the
/// others.
fn attach(agent: &Agent, connection: OwnedFd) -> Result<(), String> {
    set_socket_timeout(&connection, Timeout::Recv, Some(HEADER_PATIENCE))
        .map_err(|errno| format!("set a stream's timeout: {errno}"))?;
    let mut connection = File::from(connection);
    let header = StreamHeader::read(&mut connection).map_err(|error| chain(&error))?;
    agent
        .attach(header, connection.into())
        .map_err(|error| chain(&error))
}
