//! The link between a primary and its replica, which a test stops: the replica falls behind.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// A link to a port of this machine.
pub(super) struct SlowLink {
    pub(super) port: u16,
    is_stopped: Arc<AtomicBool>,
    /// What keeps the connections open where nothing is copied any more.
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl SlowLink {
    pub(super) fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_stopped = Arc::<AtomicBool>::default();
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let (stopped, kept) = (Arc::clone(&is_stopped), Arc::clone(&streams));
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else {
                    continue;
                };
                let client = client.unwrap();
                let both = [(&client, &server), (&server, &client)];
                for (from, to) in both.map(|(from, to)| (copy_of(from), copy_of(to))) {
                    let stopped = Arc::clone(&stopped);
                    thread::spawn(move || copy(from, to, &stopped));
                }
                kept.lock().unwrap().extend([client, server]);
            }
        });
        Self { port, is_stopped, streams }
    }

    /// What is sent from now on does not arrive.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.stop();
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn copy_of(stream: &TcpStream) -> TcpStream {
    stream.try_clone().unwrap()
}

fn copy(mut from: TcpStream, mut to: TcpStream, is_stopped: &AtomicBool) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if is_stopped.load(Ordering::SeqCst) || to.write_all(&piece[..length]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
