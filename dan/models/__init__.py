"""What turns an image into logits and named layers."""
