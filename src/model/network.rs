//! Calls between nodes and Host, and users and Host: lost, repeated, delayed, out of order.

use std::time::{Duration, Instant};

use super::sim::Sim;
use crate::host::simulated::{Call, Outcome};

/// What is on its way.
pub(super) struct Packet {
    call: u64,
    /// Not there before.
    at: Instant,
    /// None: a user.
    machine: Option<usize>,
    what: What,
}

enum What {
    Request(Call),
    Reply(Outcome),
    /// The connection breaks.
    Broken,
}

#[derive(Default)]
pub(super) struct Network {
    packets: Vec<Packet>,
    calls: u64,
    /// Who asked what the Host has not answered yet.
    asked: Vec<(u64, Option<usize>)>,
}

/// The status of a call that came to nothing on the way.
pub(super) const BROKEN: u16 = 0;

impl Sim {
    /// Sends a call; its number is the answer.
    pub(super) fn send(&self, machine: Option<usize>, call: Call) -> u64 {
        let now = self.now();
        let mut network = self.network.borrow_mut();
        network.calls += 1;
        let number = network.calls;
        if self.bad_luck(6) {
            if self.random.percent(60) {
                let at = now + self.random.ms(10, 300);
                network.packets.push(Packet { call: number, at, machine, what: What::Broken });
            }
            return number;
        }
        if self.bad_luck(12) {
            let at = now + self.random.ms(1, 8_000);
            network.packets.push(Packet { call: number, at, machine, what: What::Request(call.clone()) });
        }
        let at = now + self.delay();
        network.packets.push(Packet { call: number, at, machine, what: What::Request(call) });
        number
    }

    fn delay(&self) -> Duration {
        if self.bad_luck(10) { self.random.ms(1, 6_000) } else { self.random.ms(1, 10) }
    }

    /// One or several packets that have arrived are taken. False: nothing has.
    pub(super) fn deliver(&self) -> bool {
        let now = self.now();
        let due: Vec<usize> = {
            let network = self.network.borrow();
            network.packets.iter().enumerate().filter(|(_, packet)| packet.at <= now).map(|(at, _)| at).collect()
        };
        let Some(first) = self.random.pick(&due).copied() else { return false };
        let packet = self.network.borrow_mut().packets.swap_remove(first);
        let is_cut = packet.machine.is_some_and(|machine| self.machines[machine].is_cut(now));
        match packet.what {
            _ if is_cut => {}
            What::Broken => self.take_answer(packet.machine, packet.call, Err((BROKEN, "broken".to_owned()))),
            What::Reply(outcome) => self.take_answer(packet.machine, packet.call, outcome),
            What::Request(call) => {
                let mut calls = vec![(packet.call, call)];
                self.network.borrow_mut().asked.push((packet.call, packet.machine));
                // What comes together is one turn of the Host.
                let mut network = self.network.borrow_mut();
                while calls.len() < 4 && self.random.percent(30) {
                    let next = network.packets.iter().position(|packet| {
                        let is_cut = packet.machine.is_some_and(|machine| self.machines[machine].is_cut(now));
                        packet.at <= now && !is_cut && matches!(packet.what, What::Request(_))
                    });
                    let Some(next) = next else { break };
                    let Packet { call, machine, what, .. } = network.packets.swap_remove(next);
                    if let What::Request(asked) = what {
                        network.asked.push((call, machine));
                        calls.push((call, asked));
                    }
                }
                drop(network);
                self.host_turn(calls);
            }
        }
        true
    }

    /// The Host has a turn.
    pub(super) fn host_turn(&self, calls: Vec<(u64, Call)>) {
        if self.bad_luck(1) {
            // Before it could store anything.
            return self.restart_host("before a turn");
        }
        let answers = self.host.borrow_mut().turn(calls, self.now(), self.unix());
        if self.bad_luck(1) {
            // All is stored, and nobody hears of it.
            return self.restart_host("after a turn");
        }
        for (call, outcome) in answers {
            self.answer(call, outcome);
        }
    }

    fn answer(&self, call: u64, outcome: Outcome) {
        let mut network = self.network.borrow_mut();
        let Some(asked) = network.asked.iter().position(|(asked, _)| *asked == call) else { return };
        let (_, machine) = network.asked.swap_remove(asked);
        if self.bad_luck(6) {
            return;
        }
        let at = self.now() + self.delay();
        network.packets.push(Packet { call, at, machine, what: What::Reply(outcome) });
    }

    /// It is killed, and starts again; every connection breaks.
    pub(super) fn restart_host(&self, when: &str) {
        self.tell(|| format!("the Host is killed {when}, and starts again"));
        self.host.borrow_mut().restart(self.now(), self.unix());
        self.check.borrow_mut().host_restarted();
        let at = self.now() + self.random.ms(10, 100);
        let mut network = self.network.borrow_mut();
        let broken = std::mem::take(&mut network.asked).into_iter();
        network.packets.extend(broken.map(|(call, machine)| Packet { call, at, machine, what: What::Broken }));
    }

    fn take_answer(&self, machine: Option<usize>, call: u64, outcome: Outcome) {
        match machine {
            Some(machine) => self.runner_hears(machine, call, outcome),
            None => self.user_hears(call, outcome),
        }
    }

    /// When the next packet arrives.
    pub(super) fn next_packet(&self) -> Option<Instant> {
        self.network.borrow().packets.iter().map(|packet| packet.at).min()
    }
}
