"""Studies: encoders that differ in one thing, trained several times, evaluated alike, and compared with honesty."""
