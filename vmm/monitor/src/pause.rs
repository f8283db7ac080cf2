// SPDX-License-Identifier: Apache-2.0
//! Stopping the vCPUs, from the event loop.
//!
//! A signal makes `KVM_RUN` return. One that comes just before it is called must not be lost, so
//! the handler also sets `immediate_exit`, with which KVM returns at once (kernel:
//! Documentation/virt/kvm/api.rst, section 5).

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::arch::x86_64::state::{StateError, VcpuState};

/// A vCPU answers as soon as the host's scheduler lets it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum PauseError {
    #[error("cannot catch the signal that stops a vCPU")]
    Handler(#[source] vmm_sys_util::errno::Error),
    #[error("cannot reach a vCPU's thread")]
    Kick(#[source] vmm_sys_util::errno::Error),
    #[error("a vCPU does not answer within {}s", PATIENCE.as_secs())]
    NoAnswer,
    #[error("a vCPU has ended")]
    Ended,
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<RecvTimeoutError> for PauseError {
    fn from(error: RecvTimeoutError) -> Self {
        match error {
            RecvTimeoutError::Timeout => Self::NoAnswer,
            RecvTimeoutError::Disconnected => Self::Ended,
        }
    }
}

/// What a vCPU is told. It looks when it has been kicked, and goes on with [`Order::Resume`].
pub enum Order {
    Pause(Sender<()>),
    Save {
        msrs: Arc<[u32]>,
        state: Sender<Result<VcpuState, StateError>>,
    },
    Resume,
}

/// The vCPUs' threads, for whoever stops them.
#[derive(Default)]
pub struct Vcpus {
    all: Vec<(Sender<Order>, JoinHandle<()>)>,
    paused: bool,
}

impl Vcpus {
    pub fn add(&mut self, orders: Sender<Order>, thread: JoinHandle<()>) {
        self.all.push((orders, thread));
    }

    /// None of them runs when this returns.
    pub fn pause(&mut self) -> Result<(), PauseError> {
        if self.paused {
            return Ok(());
        }
        let mut answers = Vec::with_capacity(self.all.len());
        for (orders, thread) in &self.all {
            let (paused, answer) = channel();
            send(orders, Order::Pause(paused))?;
            thread.kill(SIGRTMIN()).map_err(PauseError::Kick)?;
            answers.push(answer);
        }
        self.paused = true;
        for answer in answers {
            answer.recv_timeout(PATIENCE)?;
        }
        Ok(())
    }

    pub fn resume(&mut self) -> Result<(), PauseError> {
        if !std::mem::take(&mut self.paused) {
            return Ok(());
        }
        for (orders, _) in &self.all {
            send(orders, Order::Resume)?;
        }
        Ok(())
    }

    /// They must be stopped. `msrs` are those that are to be saved.
    pub fn save(&self, msrs: &Arc<[u32]>) -> Result<Vec<VcpuState>, PauseError> {
        let mut states = Vec::with_capacity(self.all.len());
        for (orders, _) in &self.all {
            let (state, answer) = channel();
            let msrs = Arc::clone(msrs);
            send(orders, Order::Save { msrs, state })?;
            states.push(answer.recv_timeout(PATIENCE)??);
        }
        Ok(states)
    }
}

fn send(orders: &Sender<Order>, order: Order) -> Result<(), PauseError> {
    orders.send(order).map_err(|_| PauseError::Ended)
}

/// For the whole process, once.
pub fn prepare() -> Result<(), PauseError> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(PauseError::Handler)
}

/// The two ends of a vCPU's orders.
pub fn orders() -> (Sender<Order>, Receiver<Order>) {
    channel()
}

thread_local! {
    /// The page that this thread's vCPU shares with KVM.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// From now on a kick of this thread ends its `KVM_RUN`. The vCPU lives as long as the thread.
pub fn catch_kicks(vcpu: &mut VcpuFd) {
    RUN.set(ptr::from_mut(vcpu.get_kvm_run()));
}

extern "C" fn on_kick(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let run = RUN.get();
    if run.is_null() {
        return;
    }
    #[expect(unsafe_code, reason = "the page is KVM's as much as ours")]
    // SAFETY: the page is mapped as long as this thread runs.
    let immediate_exit = unsafe { &raw mut (*run).immediate_exit };
    #[expect(unsafe_code, reason = "the page is KVM's as much as ours")]
    // SAFETY: as above; a byte is written whole.
    unsafe {
        immediate_exit.write_volatile(1);
    }
}
