//! Sizes as they are drawn here: repeatable, and spread as those of real traffic are.

/// A small generator with a state of its own, so that a failure can be run again by its seed.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from 0 to 1, which it never is.
    pub fn even(&mut self) -> f64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.even()
    }

    /// Log-normal, by its median and the deviation of its logarithm; at least 1.
    pub fn log_normal(&mut self, median: f64, deviation: f64) -> u64 {
        let normal = (-2.0 * (1.0 - self.even()).ln()).sqrt() * (std::f64::consts::TAU * self.even()).cos();
        (median * (deviation * normal).exp()).round().max(1.0) as u64
    }
}
