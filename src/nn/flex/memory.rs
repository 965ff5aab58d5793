//! A tensor's memory for those who only read it: a checkpoint that is written needs no copy of the model.

use super::{adamw::plain, buffer::dense};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

/// The elements of a tensor, row-major, which stay as they are: whoever changes the tensor gets a copy.
#[derive(Clone, Debug)]
pub struct Memory(FlexTensor);

impl Memory {
    /// Shares the memory of a tensor, with or without autodiff, on the flex device; f32.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        Self(dense(plain(tensor)))
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(super::buffer::values(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn what_is_shared_stays_while_the_tensor_goes_on() {
        let device = Device::flex();
        let tensor: Tensor<2> = Tensor::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
        let held = Memory::of(tensor.clone());
        let column = Memory::of(tensor.clone().transpose());
        let tensor = tensor.add_scalar(1.0);
        assert_eq!(bytemuck::cast_slice::<u8, f32>(held.as_ref()), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(bytemuck::cast_slice::<u8, f32>(column.as_ref()), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(tensor.into_data().iter::<f32>().collect::<Vec<_>>(), [2.0, 3.0, 4.0, 5.0]);
    }
}
