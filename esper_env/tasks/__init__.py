"""What a host learns: data sets on the device and the batches each environment draws from them."""
