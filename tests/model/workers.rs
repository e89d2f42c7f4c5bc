//! Threads that take turns: each has a log of its own where the medium has several.

use std::sync::mpsc;
use std::thread::JoinHandle;

pub struct Workers {
    jobs: Vec<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub fn start(count: usize) -> Workers {
        let mut workers = Workers { jobs: Vec::new(), threads: Vec::new() };
        for _ in 0..count {
            let (sender, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
            workers.jobs.push(sender);
            workers.threads.push(std::thread::spawn(move || jobs.into_iter().for_each(|job| job())));
        }
        workers
    }

    /// Runs `f` on one of the threads and waits for it.
    pub fn on<R: Send + 'static>(&self, worker: usize, f: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, answered) = mpsc::channel();
        let job = move || {
            // A panic is the case's to report: the receiver sees that no answer comes.
            let _ = answer.send(f());
        };
        self.jobs[worker].send(Box::new(job)).expect("a worker is gone: see its panic above");
        answered.recv().expect("a worker panicked: see above")
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
