// SPDX-License-Identifier: Apache-2.0
//! The protocol's methods: what the host says is checked here and carried out elsewhere.
//!
//! Each call has a thread of the RPC server's. A process that could not be run is an answer
//! (`Failed`); a request that makes no sense is an RPC error.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use ttrpc::{Code, TtrpcContext};
use walnut_protocol::agent::{
    AdoptRequest, CloseIORequest, ConnectionsResponse, ContainerRequest, CreateRequest,
    CreateResponse, DeleteRequest, Empty, EntropyRequest, ExecRequest, InterfacesRequest,
    KillRequest, MountRequest, PidsResponse, ProcessesResponse, ResizePtyRequest, ShutdownRequest,
    StartRequest, StartResponse, StatsResponse, TimeRequest, UpdateRequest, WaitRequest,
    WaitResponse, WakeRequest,
};
use walnut_protocol::{agent_ttrpc, ttrpc};

use crate::agent::{Agent, StateError};
use crate::container::Container;
use crate::failure::{Failure, Stage, chain};
use crate::helper::{NOTIFY_SOCKET, Word};
use crate::id::Id;
use crate::mounts::Mounts;
use crate::process::{How, Process, ProcessError};
use crate::shutdown::{self, Machine};
use crate::{clock, connections, create, entropy, lock, network, processes, wake};

/// How long a started process may wait for its streams to be connected.
const STREAMS_PATIENCE: Duration = Duration::from_secs(30);
/// How long the last step of a start may take: exec, under emulation, from a cold image.
const EXEC_PATIENCE: Duration = Duration::from_secs(120);

/// The protocol's server side.
pub struct Service {
    pub agent: Arc<Agent>,
    pub machine: Box<dyn Machine>,
}

type Answer<T> = ttrpc::Result<T>;

impl Service {
    fn container(&self, id: &str) -> Answer<(Id, Arc<Container>)> {
        let id = Id::try_from(id).map_err(|e| invalid(&e))?;
        let container = self.agent.container(&id).map_err(|e| state_error(&e))?;
        Ok((id, container))
    }

    fn process(&self, id: &str, exec_id: &str) -> Answer<Arc<Process>> {
        let (id, container) = self.container(id)?;
        container.process(exec_id).ok_or_else(|| {
            state_error(&StateError::NoProcess {
                id,
                exec_id: exec_id.chars().take(128).collect(),
            })
        })
    }

    fn token(&self, made: Result<Arc<Process>, Failure>) -> CreateResponse {
        let mut response = CreateResponse::new();
        let token = made.and_then(|process| {
            self.agent.issue_token(&process.streams).map_err(|errno| {
                Failure::new(
                    Stage::Streams,
                    errno.raw_os_error(),
                    format!("make a token: {errno}"),
                )
            })
        });
        match token {
            Ok(token) => response.set_token(token.as_bytes().to_vec()),
            Err(failure) => response.set_failed(failure.into()),
        }
        response
    }

    fn start_process(
        container: &Container,
        process: &Process,
        is_init: bool,
    ) -> Result<(), Failure> {
        if !process.streams.wait_attached(STREAMS_PATIENCE) {
            return Err(Failure::new(
                Stage::Streams,
                0,
                "its streams were not connected in time",
            ));
        }
        let told = if is_init {
            let socket = container.state().join(NOTIFY_SOCKET);
            UnixStream::connect(socket)
                .and_then(|mut socket| socket.write_all(b"start"))
                .map_err(|error| Failure::of(Stage::Exec, 0, &error))
        } else {
            process
                .lifeline
                .send(&Word::Start, &[])
                .map_err(|e| Failure::of(Stage::Exec, 0, &e))
        };
        // A process that was killed meanwhile has started and ended, as far as the host can see.
        if process.exit().is_none() {
            told?;
        }
        match process.lifeline.receive_within::<Word>(EXEC_PATIENCE) {
            Ok(Some((Word::Failed(failure), _))) => Err(failure),
            // Close-on-exec: the program runs.
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::of(Stage::Exec, 0, &error)),
        }
    }
}

impl agent_ttrpc::Agent for Service {
    fn mount(&self, _: &TtrpcContext, request: MountRequest) -> Answer<Empty> {
        let made = Mounts::make(&request.mounts).map_err(|e| refused(Code::INTERNAL, &e))?;
        lock(&self.agent.mounts).append(made);
        Ok(Empty::new())
    }

    fn create(&self, _: &TtrpcContext, request: CreateRequest) -> Answer<CreateResponse> {
        let id = Id::try_from(request.container_id.as_str()).map_err(|e| invalid(&e))?;
        let name = self.agent.reserve(&id).map_err(|e| state_error(&e))?;
        let made = create::container(&self.agent, name, &request).map(Arc::new);
        self.agent.settle(&id, made.as_ref().ok().cloned());
        Ok(self.token(made.map(|container| Arc::clone(&container.init))))
    }

    fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        let (id, container) = self.container(&request.container_id)?;
        let process = self.process(id.as_str(), &request.exec_id)?;
        if !process.claim_start() {
            return Err(precondition("the process has been started already"));
        }
        let mut response = StartResponse::new();
        match Self::start_process(&container, &process, request.exec_id.is_empty()) {
            Ok(()) => response.set_pid(process.pid.cast_unsigned()),
            Err(failure) => {
                // Whatever it waits for, it will not come.
                let _ = process.kill(libc::SIGKILL.cast_unsigned());
                response.set_failed(failure.into());
            }
        }
        Ok(response)
    }

    fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> Answer<CreateResponse> {
        let (_, container) = self.container(&request.container_id)?;
        let exec_id = Id::try_from(request.exec_id.as_str()).map_err(|e| invalid(&e))?;
        // What is no process of the container's needs none of it to run.
        let of_its_own = request.files.is_none();
        if container.init.exit().is_some() || (of_its_own && !container.init.is_started()) {
            return Err(precondition("the container is not running"));
        }
        if of_its_own && container.cgroup.is_frozen().unwrap_or(false) {
            return Err(precondition("the container is paused"));
        }
        if !container.reserve(exec_id.as_str()) {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
                Code::ALREADY_EXISTS,
                format!("process {exec_id} exists already"),
            )));
        }
        let made = create::exec(&self.agent, &container, &request);
        container.settle(exec_id.as_str(), made.as_ref().ok().cloned());
        if let Ok(process) = &made
            && request.detached
        {
            forget_at_end(&container, process, exec_id)?;
        }
        Ok(self.token(made))
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<Empty> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        if !request.all {
            process
                .kill(request.signal)
                .map_err(|e| process_error(&e))?;
            return Ok(Empty::new());
        }
        let (_, container) = self.container(&request.container_id)?;
        shutdown::signal_all(&container, request.signal)
            .map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(Empty::new())
    }

    fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        let exit = self
            .process(&request.container_id, &request.exec_id)?
            .wait();
        let mut response = WaitResponse {
            oom_killed: exit.oom_killed,
            exited_at_ns: exit.at_ns,
            ..WaitResponse::default()
        };
        match exit.how {
            How::Exited(code) => response.set_exited(code),
            How::Signaled(signal) => response.set_signaled(signal),
        }
        Ok(response)
    }

    fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        let side = |side: u32| {
            u16::try_from(side).map_err(|_| invalid_text(format!("{side} is no terminal's size")))
        };
        process
            .resize(side(request.width)?, side(request.height)?)
            .map_err(|e| process_error(&e))?;
        Ok(Empty::new())
    }

    fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Answer<Empty> {
        self.process(&request.container_id, &request.exec_id)?
            .streams
            .close_stdin();
        Ok(Empty::new())
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<Empty> {
        let (id, container) = self.container(&request.container_id)?;
        let process = self.process(id.as_str(), &request.exec_id)?;
        // Started and not ended is running; what never started has nothing to lose.
        if process.is_started() && process.exit().is_none() {
            return Err(precondition("the process is running"));
        }
        process.streams.abandon();
        if !request.exec_id.is_empty() {
            let _ = process.kill(libc::SIGKILL.cast_unsigned());
            container.settle(&request.exec_id, None);
            return Ok(Empty::new());
        }
        self.agent.remove(&id);
        container.abandon_streams();
        container
            .kill_all()
            .map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(Empty::new())
    }

    fn pause(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Empty> {
        let (_, container) = self.container(&request.container_id)?;
        container
            .cgroup
            .freeze(true)
            .map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(Empty::new())
    }

    fn resume(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Empty> {
        let (_, container) = self.container(&request.container_id)?;
        container
            .cgroup
            .freeze(false)
            .map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(Empty::new())
    }

    fn pids(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<PidsResponse> {
        let (_, container) = self.container(&request.container_id)?;
        let pids = container
            .cgroup
            .pids()
            .map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(PidsResponse {
            pids,
            ..PidsResponse::default()
        })
    }

    fn processes(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<ProcessesResponse> {
        let (_, container) = self.container(&request.container_id)?;
        let pids = container.cgroup.pids();
        let pids = pids.map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(ProcessesResponse {
            processes: processes::list(&pids),
            ..ProcessesResponse::default()
        })
    }

    fn stats(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<StatsResponse> {
        let (_, container) = self.container(&request.container_id)?;
        let mut stats = container.cgroup.stats();
        (stats.net_read_bytes, stats.net_write_bytes) = network::traffic(container.init.pid);
        Ok(stats)
    }

    fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> Answer<Empty> {
        let (_, container) = self.container(&request.container_id)?;
        let resources: LinuxResources =
            serde_json::from_slice(&request.resources).map_err(|e| invalid(&e))?;
        container
            .cgroup
            .update(&resources)
            .map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(Empty::new())
    }

    fn wake(&self, _: &TtrpcContext, request: WakeRequest) -> Answer<Empty> {
        wake::wake(&request).map_err(|e| refused(Code::INTERNAL, &e))?;
        Ok(Empty::new())
    }

    fn adopt(&self, _: &TtrpcContext, request: AdoptRequest) -> Answer<Empty> {
        let id = Id::try_from(request.container_id.as_str()).map_err(|e| invalid(&e))?;
        let new = Id::try_from(request.new_container_id.as_str()).map_err(|e| invalid(&e))?;
        self.agent.rename(&id, &new).map_err(|e| state_error(&e))?;
        if !request.interfaces.is_empty() {
            network::set_up_again(&request.interfaces).map_err(|e| refused(Code::INTERNAL, &e))?;
        }
        Ok(Empty::new())
    }

    fn interfaces(&self, _: &TtrpcContext, request: InterfacesRequest) -> Answer<Empty> {
        network::change(&request.interfaces).map_err(|e| refused(Code::INTERNAL, &e))?;
        for file in &request.files {
            create::write_file(file).map_err(|failure| {
                ttrpc::Error::RpcStatus(ttrpc::get_status(Code::INTERNAL, failure.message))
            })?;
        }
        Ok(Empty::new())
    }

    fn connections(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<ConnectionsResponse> {
        let (_, container) = self.container(&request.container_id)?;
        Ok(connections::established(container.init.pid))
    }

    fn time(&self, _: &TtrpcContext, request: TimeRequest) -> Answer<Empty> {
        clock::set_realtime(request.realtime_ns)
            .map_err(|errno| refused(Code::INTERNAL, &errno))?;
        Ok(Empty::new())
    }

    fn entropy(&self, _: &TtrpcContext, request: EntropyRequest) -> Answer<Empty> {
        entropy::add(&request.seed).map_err(|e| refused(Code::INVALID_ARGUMENT, &e))?;
        Ok(Empty::new())
    }

    fn sync(&self, _: &TtrpcContext, _: Empty) -> Answer<Empty> {
        rustix::fs::sync();
        Ok(Empty::new())
    }

    fn shutdown(&self, context: &TtrpcContext, request: ShutdownRequest) -> Answer<Empty> {
        let grace = Duration::from_millis(request.grace_ms.into());
        shutdown::end_containers(&self.agent, grace);
        self.machine.reset(context);
        Ok(Empty::new())
    }
}

/// Nobody asks for what becomes of a detached process.
fn forget_at_end(container: &Arc<Container>, process: &Arc<Process>, exec_id: Id) -> Answer<()> {
    let (container, process) = (Arc::clone(container), Arc::clone(process));
    let forgetting = std::thread::Builder::new()
        .name("detached".into())
        .stack_size(64 << 10)
        .spawn(move || {
            process.wait();
            container.settle(exec_id.as_str(), None);
        });
    forgetting
        .map(drop)
        .map_err(|e| refused(Code::INTERNAL, &e))
}

fn refused(code: Code, error: &dyn std::error::Error) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, chain(error)))
}

fn invalid(error: &dyn std::error::Error) -> ttrpc::Error {
    refused(Code::INVALID_ARGUMENT, error)
}

fn invalid_text(why: String) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(Code::INVALID_ARGUMENT, why))
}

fn precondition(why: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(Code::FAILED_PRECONDITION, why))
}

fn state_error(error: &StateError) -> ttrpc::Error {
    let code = match error {
        StateError::Exists { .. } => Code::ALREADY_EXISTS,
        StateError::TooMany => Code::RESOURCE_EXHAUSTED,
        StateError::NoContainer { .. } | StateError::NoProcess { .. } => Code::NOT_FOUND,
    };
    refused(code, error)
}

fn process_error(error: &ProcessError) -> ttrpc::Error {
    let code = match error {
        ProcessError::Ended => Code::NOT_FOUND,
        ProcessError::NoSignal { .. } => Code::INVALID_ARGUMENT,
        ProcessError::NoTerminal => Code::FAILED_PRECONDITION,
        ProcessError::Kill { .. } | ProcessError::Resize(_) => Code::INTERNAL,
    };
    refused(code, error)
}
