//! Which CPU each thread gets.
//!
//! With a CPU for every busy thread, pinning keeps them apart. With fewer it costs up to a fifth,
//! because the scheduler can no longer give an idle CPU to whoever waits: so `auto` pins nothing then.

use std::str::FromStr;

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Pin {
    /// Pin when there is a CPU for every thread.
    #[default]
    Auto,
    /// Pin nothing.
    None,
    /// Deal these CPUs out: to the nodes' threads in order, then to the generator; from the front again
    /// when they run out.
    Cpus(Vec<usize>),
}

/// Where everything runs. Empty lists = wherever the scheduler likes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The CPUs of each node.
    pub nodes: Vec<Vec<usize>>,
    /// The generator's CPU.
    pub generator: Vec<usize>,
    /// One sentence for people: who runs where, and why.
    pub said: String,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Pin, String> {
        match text {
            "auto" => return Ok(Pin::Auto),
            "none" => return Ok(Pin::None),
            _ => {}
        }
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let bad =
                || format!("\"{part}\" is no CPU; give auto, none, or a list such as 0,2,4-7");
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| bad())?;
            let last: usize = last.trim().parse().map_err(|_| bad())?;
            if first > last || last >= 4096 {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(Pin::Cpus(cpus))
    }
}

/// A list of CPUs as a flag takes it.
pub fn list(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Says where `nodes` nodes of `cores` threads each, and the generator, run on the `usable` CPUs.
pub fn place(pin: &Pin, nodes: u32, cores: u32, usable: &[usize]) -> Placement {
    let threads = nodes as usize * cores as usize + 1;
    let deal = match pin {
        Pin::Cpus(cpus) => cpus.as_slice(),
        Pin::Auto if usable.len() >= threads => usable,
        Pin::Auto | Pin::None => &[],
    };
    if deal.is_empty() {
        let why = match pin {
            Pin::None => "as asked".to_string(),
            _ => format!("{threads} busy threads share {} CPUs", usable.len()),
        };
        let said = format!("not pinned ({why}): every thread may use CPUs {}", list(usable));
        return Placement { nodes: vec![Vec::new(); nodes as usize], generator: Vec::new(), said };
    }
    let mut next = deal.iter().copied().cycle();
    let mut take = |count: u32| -> Vec<usize> { next.by_ref().take(count as usize).collect() };
    let placed: Vec<Vec<usize>> = (0..nodes).map(|_| take(cores)).collect();
    let generator = take(1);
    let mut said = String::from("pinned:");
    for (node, cpus) in (1..).zip(&placed) {
        said += &format!(" node {node} on CPU {},", list(cpus));
    }
    said += &format!(" generator on CPU {}", list(&generator));
    if deal.len() < threads {
        said += &format!(" ({threads} threads on {} CPUs: this costs throughput)", deal.len());
    }
    Placement { nodes: placed, generator, said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_fewer_cpus_than_threads_auto_pins_nothing_and_says_so() {
        let placement = place(&Pin::Auto, 3, 1, &[0, 1]);
        assert_eq!(placement.nodes, vec![Vec::<usize>::new(); 3]);
        assert!(placement.said.contains("4 busy threads share 2 CPUs"), "{}", placement.said);
    }

    #[test]
    fn with_enough_cpus_everybody_gets_one() {
        let placement = place(&Pin::Auto, 3, 1, &[0, 1, 2, 5]);
        assert_eq!(placement.nodes, [[0], [1], [2]]);
        assert_eq!(placement.generator, [5]);
    }

    #[test]
    fn a_short_list_is_dealt_again_from_the_front() {
        let pin: Pin = "0-1".parse().unwrap();
        let placement = place(&pin, 3, 1, &[0, 1]);
        assert_eq!(placement.nodes, [[0], [1], [0]]);
        assert_eq!(placement.generator, [1]);
        assert!(placement.said.contains("costs throughput"));
    }

    #[test]
    fn a_bad_list_is_refused_by_its_bad_part() {
        assert!("1,x".parse::<Pin>().unwrap_err().contains("\"x\""));
        assert!("3-1".parse::<Pin>().is_err());
    }
}
