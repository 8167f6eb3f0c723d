-- Reference data: the same rows on every shard, copied everywhere on purpose.

create table tax_rules (
  jurisdiction text not null,
  rule text not null,
  rate_basis_points integer not null check (rate_basis_points between 0 and 10000),
  primary key (jurisdiction, rule)
);

insert into tax_rules (jurisdiction, rule, rate_basis_points) values
  ('DE', 'solidarity-surcharge', 550),
  ('EU', 'wage-tax', 2400),
  ('US', 'federal-withholding', 2200),
  ('US', 'social-security', 620);
