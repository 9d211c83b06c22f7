//! A Unix socket in front of another one, whose answers can be held.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// Forwards bytes in both directions; those of the server wait while they are held.
pub(super) struct HeldSocket(Arc<Gate>);

#[derive(Default)]
struct Gate {
    is_held: Mutex<bool>,
    changed: Condvar,
}

impl HeldSocket {
    /// Listens on `path` and forwards to `server`, until the process ends.
    pub(super) fn start(path: &Path, server: &Path) -> Self {
        let (listener, server) = (UnixListener::bind(path).unwrap(), server.to_owned());
        let gate = Arc::<Gate>::default();
        let shared = Arc::clone(&gate);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&server) else { continue };
                let copies = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let gate = Arc::clone(&shared);
                thread::spawn(move || forward(client, server, None));
                thread::spawn(move || forward(copies.1, copies.0, Some(&gate)));
            }
        });
        Self(gate)
    }

    /// Holds what the server sends from now on.
    pub(super) fn hold(&self) {
        *self.0.is_held.lock().unwrap() = true;
    }

    /// Forwards what was held, and what follows.
    pub(super) fn release(&self) {
        *self.0.is_held.lock().unwrap() = false;
        self.0.changed.notify_all();
    }
}

fn forward(mut from: UnixStream, mut to: UnixStream, gate: Option<&Gate>) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if let Some(gate) = gate {
            let held = gate.is_held.lock().unwrap();
            drop(gate.changed.wait_while(held, |held| *held).unwrap());
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
