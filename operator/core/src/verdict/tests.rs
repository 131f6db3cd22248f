//! What the verdict promises, by table and by property.
