// SPDX-License-Identifier: Apache-2.0
//! What a supervisor's threads share: the container's state, its machine's agent, who is attached.
//!
//! The main thread drives the machine; each control connection has a thread that acts on this and
//! waits here for what comes of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use walnut_protocol::agent::ContainerRequest;
use walnut_protocol::{Client, chain};

use super::alone::{Alone, Turn};
use super::checkpoint::OwnMachine;
use super::hub::Hub;
use super::passing::Passing;
use super::wire::Condition;
use crate::container::Container;
use crate::record::{Entry, Health, RecordError, State, Status};

/// Time for the agent to answer what it need not work for.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Shared {
    pub entry: Entry,
    pub container_id: String,
    pub(super) stop_signal: u32,
    pub(super) stop_timeout_s: i32,
    removed_at_end: bool,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Readable once somebody wants the container stopped.
    stop: OwnedFd,
    /// Whose the machine is: it stands still for a checkpoint, or runs for others.
    alone: Alone,
    pub hub: Hub,
    pub passing: Arc<Passing>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    agent: Option<Client>,
    stdin: Option<Arc<UnixStream>>,
    /// Of the container alone, and what it takes to go on with it elsewhere.
    machine: Option<Arc<OwnMachine>>,
    phase: Phase,
    /// It was ended by this process.
    ended_here: bool,
    /// Runs that have ended.
    ended: u64,
    /// No run will follow, and all is written.
    over: bool,
    stopping: bool,
    /// Connections whose answers are still to be sent.
    answering: u32,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Coming,
    /// The container's first process runs.
    Alive,
    /// It has ended, its machine not.
    Ending,
}

impl Shared {
    pub fn new(entry: Entry, container: &Container, state: State) -> std::io::Result<Self> {
        Ok(Self {
            container_id: container.id.to_string(),
            stop_signal: container.stop_signal,
            stop_timeout_s: container.stop_timeout_s,
            removed_at_end: container.remove,
            entry,
            inner: Mutex::new(Inner {
                state,
                agent: None,
                stdin: None,
                machine: None,
                phase: Phase::Coming,
                ended_here: false,
                ended: 0,
                over: false,
                stopping: false,
                answering: 0,
            }),
            changed: Condvar::new(),
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            alone: Alone::default(),
            hub: Hub::default(),
            passing: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable once somebody wants the container stopped.
    pub fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Changes the state and writes it.
    pub fn update(
        &self,
        durable: bool,
        change: impl FnOnce(&mut State),
    ) -> Result<(), RecordError> {
        let mut inner = self.lock();
        change(&mut inner.state);
        self.entry.write_state(&inner.state, durable)
    }

    /// False where no run goes on: what was said of it is written.
    pub fn update_health(&self, health: Health) -> bool {
        let mut inner = self.lock();
        if !inner.state.is_up() {
            return false;
        }
        inner.state.health = Some(health);
        if let Err(e) = self.entry.write_state(&inner.state, false) {
            log::warn!("{}", chain(&e));
        }
        true
    }

    /// A run has begun.
    pub fn begun(
        &self,
        agent: Client,
        stdin: Option<Arc<UnixStream>>,
        machine: Option<OwnMachine>,
    ) {
        let mut inner = self.lock();
        inner.agent = Some(agent);
        inner.stdin = stdin;
        inner.machine = machine.map(Arc::new);
        inner.phase = Phase::Alive;
        self.changed.notify_all();
    }

    /// The container's first process has ended, or nobody can tell any more: no more calls to the
    /// agent.
    pub fn process_ended(&self) {
        self.leave(Phase::Ending);
    }

    /// Waits until that is so, at most `timeout`; whether it is.
    pub(super) fn wait_process(&self, timeout: Duration) -> bool {
        self.wait_until(Some(timeout), |inner| inner.phase != Phase::Alive)
    }

    /// The machine is about to go, if it has not yet.
    pub fn machine_ends(&self) {
        self.leave(Phase::Coming);
    }

    fn leave(&self, next: Phase) {
        let mut inner = self.lock();
        inner.phase = next;
        inner.agent = None;
        inner.stdin = None;
        inner.machine = None;
        self.changed.notify_all();
    }

    /// A run has ended, and that is written; `over` if no other follows.
    pub fn ended(&self, over: bool) {
        let mut inner = self.lock();
        inner.ended += 1;
        inner.over |= over;
        self.changed.notify_all();
    }

    /// Waits until the answers of an ended container have been sent.
    pub fn wait_answered(&self, timeout: Duration) {
        self.wait_until(Some(timeout), |inner| inner.answering == 0);
    }

    /// Waits for `timeout`, or until somebody wants the container stopped; whether that is so.
    pub fn wait_for_stop(&self, timeout: Duration) -> bool {
        self.wait_until(Some(timeout), |inner| inner.stopping)
    }

    /// Waits until the run that is counted `ended` is over, at most `timeout`; whether it is.
    pub fn wait_run(&self, ended: u64, timeout: Option<Duration>) -> bool {
        self.wait_until(timeout, |inner| inner.ended > ended || inner.over)
    }

    pub fn wait_over(&self) {
        self.wait_until(None, |inner| inner.over);
    }

    /// Waits until something is done, at most `timeout`; whether it is.
    fn wait_until(&self, timeout: Option<Duration>, done: impl Fn(&Inner) -> bool) -> bool {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut inner = self.lock();
        while !done(&inner) {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            inner = self.wait_on(inner, left);
        }
        true
    }

    fn wait_on<'a>(
        &self,
        inner: MutexGuard<'a, Inner>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, Inner> {
        match timeout {
            None => self
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.changed
                    .wait_timeout(inner, timeout)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// Runs that have ended so far.
    pub fn runs(&self) -> u64 {
        self.lock().ended
    }

    pub fn answering(&self, more: bool) {
        let mut inner = self.lock();
        inner.answering = if more {
            inner.answering + 1
        } else {
            inner.answering.saturating_sub(1)
        };
        self.changed.notify_all();
    }

    pub(super) fn machine(&self) -> Option<Arc<OwnMachine>> {
        self.lock().machine.clone()
    }

    /// The machine does not stand still for a checkpoint as long as this is held.
    pub(super) fn checkpointing(&self) -> Turn<'_> {
        self.alone.wait()
    }

    /// The same, where it takes no longer than a call to the agent.
    pub(super) fn checkpointing_soon(&self) -> Option<Turn<'_>> {
        self.alone.wait_for(CALL_TIMEOUT)
    }

    /// Ends the machine where it is, which is not its failure.
    pub(super) fn end_machine(&self, machine: &OwnMachine) -> Result<(), String> {
        self.lock().ended_here = true;
        self.stop_here();
        machine.vm.kill().map_err(|e| chain(&e))
    }

    pub fn is_ended_here(&self) -> bool {
        self.lock().ended_here
    }

    pub fn agent(&self) -> Result<Client, String> {
        let inner = self.lock();
        let agent = inner.agent.as_ref();
        agent
            .map(|agent| agent.within(CALL_TIMEOUT))
            .ok_or_else(|| self.not_running())
    }

    fn not_running(&self) -> String {
        format!("container {} is not running", self.entry.short())
    }

    /// As [`Self::agent`], of a container that is just being made once it is; none where it will not
    /// run any more, or has ended.
    pub(super) fn agent_to_come(&self) -> Option<Client> {
        let mut inner = self.lock();
        while inner.phase == Phase::Coming && !inner.over {
            inner = self.wait_on(inner, None);
        }
        let agent = inner.agent.as_ref();
        agent.map(|agent| agent.within(CALL_TIMEOUT))
    }

    /// As [`Self::agent`]; where there is one, no run follows the present one.
    pub(super) fn agent_to_stop(&self) -> Result<Client, String> {
        let mut inner = self.lock();
        let agent = inner.agent.as_ref().map(|agent| agent.within(CALL_TIMEOUT));
        let agent = agent.ok_or_else(|| self.not_running())?;
        self.no_more(&mut inner);
        Ok(agent)
    }

    /// Its process has ended; its machine may have something to write yet.
    pub(super) fn is_ending(&self) -> bool {
        self.lock().phase == Phase::Ending
    }

    /// The container's input, once it runs; none where it has none, or will not run any more.
    pub fn stdin(&self) -> Option<Arc<UnixStream>> {
        let mut inner = self.lock();
        while inner.agent.is_none() && !inner.over {
            inner = self.wait_on(inner, None);
        }
        inner.stdin.clone()
    }

    /// No run follows the present one.
    pub fn stop_here(&self) {
        self.no_more(&mut self.lock());
    }

    fn no_more(&self, inner: &mut Inner) {
        inner.stopping = true;
        inner.state.manually_stopped = true;
        // It fails only where the counter is full: it is readable then, too.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        self.changed.notify_all();
    }

    pub(super) fn this(&self) -> ContainerRequest {
        ContainerRequest {
            container_id: self.container_id.clone(),
            ..ContainerRequest::default()
        }
    }

    pub fn pause(&self, pause: bool) -> Result<(), String> {
        // One at a time, and nobody else changes the state from or to this meanwhile.
        let _machine_runs = self.checkpointing();
        let agent = self.agent()?;
        let short = self.entry.short();
        let was = self.lock().state.status;
        let status = match (pause, was) {
            (true, Status::Running) => Status::Paused,
            (false, Status::Paused) => Status::Running,
            (true, Status::Paused) => return Err(format!("container {short} is already paused")),
            (true, _) => return Err(format!("container {short} is not running")),
            (false, _) => return Err(format!("Container {short} is not paused")),
        };
        // Without the lock: a hung guest's answer is waited for.
        let done = if pause {
            agent.pause(&self.this())
        } else {
            agent.resume(&self.this())
        };
        done.map_err(|e| chain(&e))?;
        let mut inner = self.lock();
        if inner.state.status != was {
            return Err(format!("container {short} has ended"));
        }
        inner.state.status = status;
        self.entry
            .write_state(&inner.state, false)
            .map_err(|e| chain(&e))
    }

    /// Docker's wait: the exit code, once `condition` holds; none where nobody waits any more.
    pub fn wait(&self, condition: Condition, is_gone: impl Fn() -> bool) -> Option<i32> {
        let mut inner = self.lock();
        let runs = inner.ended;
        loop {
            let holds = match condition {
                Condition::NotRunning => !inner.state.is_claimed(),
                Condition::NextExit => inner.ended > runs,
                Condition::Removed => self.removed_at_end && inner.over,
            };
            if holds || inner.over {
                return Some(inner.state.exit_code);
            }
            if is_gone() {
                return None;
            }
            inner = self.wait_on(inner, None);
        }
    }

    /// Whoever waits for something looks again.
    pub fn tell(&self) {
        // With the lock, so that nobody is between the look and the wait.
        let _inner = self.lock();
        self.changed.notify_all();
    }

    /// Until something happens: a connection that ends, for one. At most `timeout`.
    pub fn wait_for_change(&self, timeout: Duration) {
        drop(self.wait_on(self.lock(), Some(timeout)));
    }
}

#[cfg(test)]
pub(super) mod tests;
