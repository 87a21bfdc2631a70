-- So that the tasks of a tenant are counted without looking at them.
CREATE INDEX tasks_of_tenants ON tasks (tenant_id) WHERE state <> 'deleted';
