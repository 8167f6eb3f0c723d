create table right_marks (
  tenant text not null,
  name text not null,
  primary key (tenant, name)
);
